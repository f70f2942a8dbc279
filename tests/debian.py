"""What a buildd, lintian, piuparts and autopkgtest would say in a Debian release: ``make test-debian SUITE=trixie``.

Each step runs in a clean tree of that release, made by mmdebstrap(1) as the lab's images are (`tests.lab.image`):

build       dpkg-buildpackage with checks, as an ordinary user without network, with its build dependencies only
lint        lintian -I -E --pedantic, of that release
install     apt installs the packages
remove      apt removes them, and purges them: what is left, as piuparts would look for it
upgrade     apt upgrades a machine of the release before that has the packages to this one; then they are purged
tests       debian/tests by autopkgtest, with the runner "null"
lifecycle   debian/tests/lifecycle, which needs a machine that is thrown away: upgrade, remove and purge beside a guard
lab         make test, with PYTEST's options, in a copy of the tree (only if asked for); it boots the same release

The exit status is 1 if a step failed.  Logs are in build/debian-SUITE/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.lab.closing import Closing
from tests.lab.image import find_image, find_sources, ImageError, LEFT_OUT, Recipe
from tests.lab.namespaces import Namespaces

ROOT = Path(__file__).parents[1]
STEPS = ("build", "lint", "install", "remove", "upgrade", "tests", "lifecycle", "lab")
DEFAULT = STEPS[:-1]

# The release before each, from which one upgrades.
BEFORE = {"trixie": "bookworm", "forky": "trixie", "sid": "trixie"}

# How many lines of a failed step's log are shown.
LOGGED = 60

# An ordinary user, as those of build daemons: nobody else's files, no home.
BUILDER = "builder:x:1234:1234::/nonexistent:/bin/sh\n"

# What changes with each use of a machine, and belongs to no package.
_FLEETING = re.compile(
    r"/(dev|proc|sys|tmp|run/lock|var/(cache|log|tmp|lib/(apt|dpkg|systemd|ucf)|backups))(/|$)"
    r"|/etc/ld\.so\.cache$|\.dpkg-old$|/__pycache__(/|$)"
)


# What an older lintian says of a package for newer releases. A newer one does not know tags that are gone, so an
# override for them would be an error; nor does an older one know what a newer one asks for, and it complains
# about the overrides. Forky's sees them all. The units without hardening run ifup, the admin's scripts and VPNs'
# commands: what these may do must not depend on whether a hook has started them.
_OUTDATED_SINCE_FORKY = (
    "newer-standards-version", "alien-tag", "duplicate-override-context",
    "systemd-service-file-missing-hardening-features",
)  # fmt: skip
OUTDATED_TAGS = {
    "bookworm": (*_OUTDATED_SINCE_FORKY, "package-supports-alternative-init-but-no-init.d-script"),
    "trixie": _OUTDATED_SINCE_FORKY,
}


def suppress_outdated(suite: str) -> list[str]:
    """Return the arguments for lintian(1) of a release."""
    return [f"--suppress-tags={','.join(OUTDATED_TAGS[suite])}"] if suite in OUTDATED_TAGS else []


def find_tags(said: str, suite: str) -> list[str]:
    """Return the tags in what lintian of a release says."""
    tags = [line for line in said.splitlines() if re.match(r"[EWIPX]: ", line)]
    # lintian can't be told to suppress this one.
    return [tag for tag in tags if suite not in OUTDATED_TAGS or " unused-override " not in tag]


class StepFailed(Exception):
    """A step did not say what it should; the message is what it said at last."""


class Machine(Closing):
    """A machine with a tree of files of its own; `close` throws it away.

    image: the directory of the tree; network: whether it shares this machine's network, for apt; else it has none, not
    even a loopback device that is up.
    written: whether the machine writes to the tree itself, which is then the root of its mount namespace: as the lab
    needs it, which lays two overlays over it and enters namespaces (nsenter(1) leaves a chroot).  Else it writes to an
    overlay.
    """

    def __init__(self, image: Path, network: bool, written: bool = False) -> None:
        with ExitStack() as undo:
            kinds = ("mnt", "uts") if network else ("mnt", "uts", "net")
            self._place = undo.enter_context(Namespaces(kinds))
            self._place.run(["mount", "-t", "tmpfs", "-o", "mode=755", "machine", "/mnt"])
            self._place.run(["mkdir", "/mnt/upper", "/mnt/work", "/mnt/root"])
            layers = f"lowerdir={image},upperdir=/mnt/upper,workdir=/mnt/work"
            overlay = ["-t", "overlay", "-o", layers, "machine"]
            self._place.run(["mount", *(["--bind", str(image)] if written else overlay), "/mnt/root"])
            for name in ("proc", "sys", "dev"):
                self._place.run(["mount", "--rbind", "--make-rslave", f"/{name}", f"/mnt/root/{name}"])
            self._inside = "/mnt/root"
            if written:
                self._place.run(["sh", "-ec", "cd /mnt/root; pivot_root . mnt; umount --lazy mnt"])
                self._inside = "/"
            self.root = self._place.root / self._inside.removeprefix("/")
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Throw it away."""
        self._undo.close()

    def run(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        user: str = "",
        directory: str = "/",
        timeout: float = 1800.0,
        good: Sequence[int] = (0,),
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program and return its output, which is added to `log`, too.  Raises StepFailed.

        user: its number and group, ``1234:1234``; root unless given; timeout: in seconds; good: the exit statuses that
        are no failure; variables: added to its environment.
        """
        proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        environment = {**proxies, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **(variables or {})}
        inside = ["chroot", *([f"--userspec={user}"] if user else []), self._inside]
        inside += ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", directory, *argv]
        result = self._place.run(inside, check=False, env=environment, timeout=timeout)
        said = result.stdout + result.stderr
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(argv)}\n{said}")
        if result.returncode not in good:
            last = find_counts(said) or " / ".join(said.strip().splitlines()[-3:])
            raise StepFailed(f"{argv[0]}: exit status {result.returncode}: {last}")
        return said

    def list_files(self) -> dict[str, str]:
        """Return all files but fleeting ones, each with its target if it is a link."""
        found = {}
        for directory, directories, files in os.walk(self.root):
            inside = "/" + os.path.relpath(directory, self.root).removeprefix(".")
            directories[:] = [name for name in directories if not _FLEETING.match(os.path.join(inside, name))]
            for name in files + [name for name in directories if os.path.islink(os.path.join(directory, name))]:
                path = os.path.join(inside, name)
                if not _FLEETING.search(path):
                    real = os.path.join(directory, name)
                    found[path] = os.readlink(real) if os.path.islink(real) else ""
        return found


class Suite:
    """A Debian release, and what is known of the packages in it.  directory: for its logs and packages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = ROOT / f"build/debian-{name}"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)

    def log(self, step: str) -> Path:
        """Return where a step's output goes."""
        return self.directory / f"{step}.log"

    def find_packages(self) -> list[Path]:
        """Return the packages that `build` has made.  Raises StepFailed."""
        packages = sorted(self.directory.glob("*.deb"))
        if not packages:
            raise StepFailed("there are no packages: build failed, or was left out")
        return packages

    def build(self) -> str:
        """Build as an ordinary user without network, and keep the packages."""
        fields = read_fields(ROOT / "debian/control")
        depends = [entry.split()[0] for entry in fields["Build-Depends"].split(",") if entry.strip()]
        depends = ["debhelper" if name == "debhelper-compat" else name for name in depends]
        depends = ["dh-python" if name == "dh-sequence-python3" else name for name in depends]
        image = find_image(self.name, recipe=Recipe(("build-essential", *depends), (), {}, ()))
        with Machine(image, network=False) as machine:
            source = machine.root / "build/source"
            copy_sources(source)
            with open(machine.root / "etc/passwd", "a", encoding="ascii") as passwd:
                passwd.write(BUILDER)
            machine.run(["chown", "-R", "1234:1234", "/build"], self.log("build"))
            command = ["dpkg-buildpackage", "-us", "-uc", "--no-check-builddeps"]
            said = machine.run(command, self.log("build"), user="1234:1234", directory="/build/source")
            for file in (machine.root / "build").iterdir():
                if file.is_file():
                    shutil.copy(file, self.directory)
        return read_counts(said)

    def lint(self) -> str:
        """Ask the release's own lintian; anything that it says and that no override explains is a failure."""
        self.find_packages()
        with Machine(find_image(self.name, recipe=Recipe(("lintian",), (), {}, ())), network=False) as machine:
            shutil.copytree(self.directory, machine.root / "packages")
            [changes] = [file.name for file in self.directory.glob("*.changes")]
            command = ["lintian", "-I", "-E", "--pedantic", "--allow-root", "--fail-on", "none"]
            command += suppress_outdated(self.name)
            said = machine.run([*command, changes], self.log("lint"), directory="/packages")
            version = machine.run(["lintian", "--version"], self.log("lint")).strip()
        if tags := find_tags(said, self.name):
            raise StepFailed("; ".join(tags))
        return f"{version}: nothing"

    def _make_plain(self, suite: str = "") -> Machine:
        """Return a machine as `debootstrap` makes it, with ifupdown.  suite: another than this one."""
        recipe = Recipe(("apt", "ca-certificates", "ifupdown", "iproute2"), LEFT_OUT, {}, ())
        return Machine(find_image(suite or self.name, recipe=recipe), network=True)

    def _install(self, machine: Machine, step: str, *more: str) -> None:
        target = machine.root / "root/packages"
        target.mkdir(parents=True)
        for package in self.find_packages():
            shutil.copy(package, target)
        policy = machine.root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        machine.run(["apt-get", "update", "-qq"], self.log(step))
        names = [f"/root/packages/{package.name}" for package in self.find_packages()]
        machine.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *names, *more], self.log(step))

    def install(self) -> str:
        """Install, and run the command once."""
        with self._make_plain() as machine:
            self._install(machine, "install")
            said = machine.run(["netconf-hooks", "check"], self.log("install"))
            audit = machine.run(["dpkg", "--audit"], self.log("install"))
        if audit.strip():
            raise StepFailed(audit.strip())
        return said.strip().splitlines()[-1]

    def remove(self) -> str:
        """Remove and purge, and look what is left: the steps of piuparts(1)."""
        with self._make_plain() as machine:
            log = self.log("remove")
            machine.run(["apt-get", "update", "-qq"], log)
            dependencies = self._list_dependencies()
            machine.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *dependencies], log)
            before = machine.list_files()
            self._install(machine, "remove")
            names = [package.name.partition("_")[0] for package in self.find_packages()]
            machine.run(["apt-get", "remove", "-qq", "--yes", *names], log)
            machine.run(["dpkg", "--purge", *names], log)
            shutil.rmtree(machine.root / "root/packages")
            (machine.root / "usr/sbin/policy-rc.d").unlink()
            after = machine.list_files()
        left = sorted(path for path in after if after.get(path) != before.get(path))
        gone = sorted(path for path in before if path not in after)
        if left or gone:
            raise StepFailed(f"left behind: {' '.join(left) or 'nothing'}; gone: {' '.join(gone) or 'nothing'}")
        return f"nothing left behind, nothing gone ({len(before)} files)"

    def upgrade(self) -> str:
        """Upgrade the release before to this one, as piuparts(1) does: the packages work, and can be purged."""
        if self.name not in BEFORE:
            return "no release before it"
        with self._make_plain(BEFORE[self.name]) as machine:
            log = self.log("upgrade")
            self._install(machine, "upgrade")
            etc = machine.root / "etc"
            with open(etc / "network/interfaces", "a", encoding="ascii") as interfaces:
                interfaces.write("iface nc0 inet manual\n    netconf-location here interface=nc0\n")
            for file in (etc / "apt/sources.list.d").iterdir():
                file.unlink()
            (etc / "apt/sources.list").write_text("".join(f"{line}\n" for line in find_sources(self.name)))
            machine.run(["apt-get", "update", "-qq"], log)
            options = ["-o", "Dpkg::Options::=--force-confold"]
            machine.run(["apt-get", "dist-upgrade", "-qq", "--yes", "--no-install-recommends", *options], log)
            release = machine.run(["sh", "-c", '. /etc/os-release && echo "$PRETTY_NAME"'], log).strip()
            names = [package.name.partition("_")[0] for package in self.find_packages()]
            states = machine.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\n", *names], log).split()
            audit = machine.run(["dpkg", "--audit"], log).strip()
            if set(states) != {"ii"} or audit:
                raise StepFailed(f"after the upgrade: {' '.join(states)} {audit}")
            checked = machine.run(["netconf-hooks", "check"], log).strip().splitlines()[-1]
            machine.run(["dpkg", "--purge", *names], log)
            ours = re.compile(r"^/(?!root/).*netconf[-_]hooks")
            left = [path for path in machine.list_files() if ours.match(path)]
        if left:
            raise StepFailed(f"left behind: {' '.join(left)}")
        return f"to {release}: {checked}; purged, nothing left behind"

    def _list_dependencies(self) -> list[str]:
        names = []
        for package in self.find_packages():
            said = subprocess.check_output(["dpkg-deb", "-f", str(package), "Depends"], text=True)
            alternatives = [entry.split("|")[0].split()[0].partition(":")[0] for entry in said.split(",")]
            names += [name for name in alternatives if not name.endswith("netconf-hooks")]
        return sorted(set(names))

    def tests(self) -> str:
        """Run debian/tests by autopkgtest in the installed machine."""
        with self._make_plain() as machine:
            copy_sources(machine.root / "root/source")
            self._install(machine, "tests", "autopkgtest")
            packages = [f"/root/packages/{package.name}" for package in self.find_packages()]
            command = ["autopkgtest", "--no-built-binaries", *packages, "/root/source", "--", "null"]
            # 2: something was left out, autopkgtest(1).
            said = machine.run(command, self.log("tests"), good=(0, 2))
        summary = said.rpartition("summary\n")[2]
        results = dict(re.findall(r"^(\S+) +(PASS|FAIL|SKIP|FLAKY)\b", summary, re.MULTILINE))
        if "PASS" not in results.values():
            raise StepFailed(f"nothing passed: {results}")
        return ", ".join(f"{name} {verdict}" for name, verdict in results.items())

    def lifecycle(self) -> str:
        """Run the test that "null" leaves out: it changes what is installed.  It has a network of its own."""
        with self._make_plain() as machine:
            copy_sources(machine.root / "root/source")
            needed = ("dpkg-repack", "nftables", "procps", "libnftables1")
            self._install(machine, "lifecycle", *needed)
            command = ["unshare", "--net", "/root/source/debian/tests/lifecycle"]
            said = machine.run(command, self.log("lifecycle"))
        return next(line for line in reversed(said.splitlines()) if line.startswith("netconf-hooks: "))

    def lab(self) -> str:
        """Run ``make test`` in a copy of the release's tree: the lab lays its own file systems over it."""
        recipe = Recipe(("make", "git", "ca-certificates", "apt"), LEFT_OUT, {}, ())
        image = find_image(self.name, recipe=recipe)
        copy = self.directory / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(image), str(copy)], check=True)
        try:
            with Machine(copy, network=True, written=True) as machine:
                copy_sources(copy / "root/source")
                # make deb asks git for the checkout's files.
                machine.run(["git", "init", "--quiet"], self.log("lab"), directory="/root/source")
                options = [f"PYTEST={os.environ['PYTEST']}"] if os.environ.get("PYTEST") else []
                said = machine.run(
                    ["make", "test", *options], self.log("lab"), directory="/root/source", timeout=7200,
                    variables={"NETCONF_LAB_SUITE": self.name},
                )  # fmt: skip
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        return read_counts(said)


def read_fields(control: Path) -> dict[str, str]:
    """Return the fields of the first paragraph, without build profiles and versions (deb-src-control(5))."""
    fields: dict[str, str] = {}
    name = ""
    for line in control.read_text().split("\n\n")[0].splitlines():
        if line[:1].isspace():
            fields[name] += line
        else:
            name, _, fields[name] = line.partition(":")
    return fields


def find_counts(said: str) -> str:
    """Return how many tests have passed, failed and so on, from pytest's output; empty if none has run."""
    counts = re.findall(r"^=*\s*(\d+ (?:passed|failed|error).*?)[=\s]*$", said, re.MULTILINE)
    return str(counts[-1]) if counts else ""


def read_counts(said: str) -> str:
    """Return the same.  Raises StepFailed if none has run."""
    if counts := find_counts(said):
        return counts
    raise StepFailed("no tests have run")


def copy_sources(target: Path) -> None:
    """Copy the checkout's files as they are now, without what is ignored, to `target`."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def run_step(suite: Suite, name: str) -> bool:
    """Run a step and print one line about it; return whether it went well."""
    work: Callable[[], str] = getattr(suite, name)
    began = time.monotonic()
    try:
        said, good = work(), True
    except ImageError as error:
        said, good = f"no tree of {suite.name} could be made: {' / '.join(str(error).strip().splitlines()[-3:])}", False
    except (StepFailed, AssertionError, TimeoutError) as error:
        said, good = str(error), False
    lines = [f"{suite.name:9} {name:9} {'ok' if good else 'FAIL':5} {time.monotonic() - began:4.0f} s  {said}"]
    if not good and suite.log(name).exists():
        # Each line names the release, since two of these may run at once.
        last = suite.log(name).read_text(errors="replace").splitlines()[-LOGGED:]
        lines += [f"{suite.name:9} {name:9} | {line}" for line in last]
    print("\n".join(lines), flush=True)
    return good


def main(arguments: Sequence[str]) -> int:
    """Run the steps named for the suite named, one after the other."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.debian", description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("steps", nargs="*", metavar="step", help=", ".join(STEPS))
    options = parser.parse_args(arguments)
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"expected steps of {', '.join(STEPS)}, not {', '.join(sorted(unknown))}")
    suite = Suite(options.suite)
    results = [run_step(suite, name) for name in STEPS if name in (options.steps or DEFAULT)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
