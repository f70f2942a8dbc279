# As root, each target first installs the Debian packages that it needs.  Nothing is ever upgraded, and no service is
# started.
#
#   sudo make demo      a laptop goes from home to the office to the cafe and back
#   sudo make pictures  draws README's pictures from what the demo prints
#   sudo make test      unit and lab tests
#   sudo make test-vm   tests that need Debian's own kernel, booted in qemu
#   make test-unit      the unit tests alone, without the slowest: no root, seconds
#   sudo make test-debian SUITE=trixie   what a buildd, lintian, piuparts and autopkgtest would say there: ten minutes
#   sudo make bench     what the hooks cost: a quarter of an hour, writes docs/performance.md
#   sudo make soak      ends tunnels, kills hooks, has forty guards at once, makes up data: an hour
#   sudo make latencies  for how long packets leave after the kernel's event while the watcher is busy: some minutes
#   make mutants FILE=netconf_hooks/decide.py   would the tests notice if this module were wrong?
#   make lint           flake8, mypy, vulture, shellcheck, manual pages
#   make deb            build/*.deb, from the files as they are now
#   make clean          removes what the others have built

SHELL = /bin/bash
.SHELLFLAGS = -eu -o pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL = help

# Always Debian's own python3, whatever is first on PATH.
export PATH := /usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL := C.UTF-8
PYTHON = /usr/bin/python3
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
export PYTHONNOUSERSITE = 1
# A run as root must not leave files of root's among the sources.
export PYTHONPYCACHEPREFIX = $(CURDIR)/build/pycache

# The Debian packages that each target needs.
NEEDS_library = python3 python3-dnspython python3-iptables python3-netifaces libnftables1 python3-pyroute2
NEEDS_deb = debhelper dh-python dpkg-dev fakeroot git pybuild-plugin-pyproject python3 python3-setuptools
NEEDS_lint = flake8 git groff-base man-db mandoc mypy shellcheck vulture $(NEEDS_library)
NEEDS_unit = fish openssl zsh python3-hypothesis python3-pyfakefs python3-pytest python3-pytest-xdist $(NEEDS_library)
NEEDS_demo = busybox dhcpcd-base dnsmasq-base ifupdown iproute2 iputils-ping isc-dhcp-client mmdebstrap nftables \
	openssl openvpn procps systemd-container wireguard-go wireguard-tools $(NEEDS_library) $(NEEDS_deb)
NEEDS_test = iptables lintian strace $(NEEDS_unit) $(NEEDS_demo)
NEEDS_debian = git mmdebstrap util-linux
NEEDS_vm = e2fsprogs mmdebstrap python3-pytest qemu-system-x86 util-linux $(NEEDS_library) $(NEEDS_deb)
NEEDS_bench = dnsmasq-base ifupdown iproute2 iptables iputils-ping isc-dhcp-client nftables openssl procps \
	python3-matplotlib time util-linux $(NEEDS_library) $(NEEDS_deb)

# The sources of the packages; `make deb` builds only if one of these has changed.
SHIPPED = LICENSE README.md debian docs if-down.d if-post-down.d if-pre-up.d if-up.d libexec netconf_hooks \
	pyproject.toml sbin setup.cfg

# At the end, give files that root has written into build/ to the checkout's owner.  Another target may remove some
# meanwhile.  Not the tree of a Debian in which another runs: its setuid programs would be none any more.
HAND_BACK = [ "$$(id -u)" != 0 ] || trap '[ ! -d build ] || find build -path "build/debian-*/root" -prune -o \
	-exec chown -h --silent --reference=. {} + || true' EXIT

# What is Python, and has no name that says so.
PROGRAMS = $(wildcard if-*.d/netconf-hooks) $(addprefix libexec/,fulfil map request tunnel) $(wildcard sbin/*)

# Names that vulture wrongly reports as unused: ssl, pyroute2 and Python read them.
ALIVE = check_hostname,verify_mode,minimum_version,__getattr__,module_err_level,nla_map

# Lab tests mostly wait: for DHCP, for VPN servers, for the kernel.
WORKERS = $(shell expr 3 '*' "$$(nproc)")

# Examples: make test PYTEST='-k cafe -x'
PYTEST =
# make bench ROWS='ifup-plain memory' ROUNDS=5
ROWS =
ROUNDS =
# make mutants FILE=netconf_hooks/decide.py MUTANTS='--count 100 --seed 7 --quick'
FILE =
MUTANTS =

# make test-debian SUITE=trixie STEPS='build lint'
SUITE = bookworm
STEPS =

.PHONY: help demo pictures test test-debian test-unit test-vm bench latencies soak mutants lint deb clean root
help:
	sed -n '/^#   /s/^# *//p' Makefile

demo: root needs-demo
	$(HAND_BACK)
	$(PYTHON) -m tests.lab.demo

# The unit tests compare the pictures with what this draws from the output that is kept.
pictures: root needs-demo
	$(HAND_BACK)
	$(PYTHON) -m tests.lab.demo >build/demo.txt
	$(PYTHON) -m tests.lab.pictures build/demo.txt docs/pictures
	cp build/demo.txt tests/unit/fixtures/demo.txt
	chown --reference=. tests/unit/fixtures/demo.txt docs/pictures/*.svg

test: root needs-test deb
	$(HAND_BACK)
	$(PYTHON) -m pytest -n $(WORKERS) $(PYTEST) tests/unit tests/lab

test-vm: root needs-vm deb
	$(HAND_BACK)
	$(PYTHON) -m pytest $(PYTEST) tests/vm

test-debian: root needs-debian
	$(HAND_BACK)
	PYTEST='$(PYTEST)' $(PYTHON) -m tests.debian $(SUITE) $(STEPS)

bench: root needs-bench
	$(HAND_BACK)
	$(PYTHON) -m tests.bench $(addprefix --rounds=,$(ROUNDS)) $(ROWS)

# One worker more than processors, since some of these tests wait, too.
test-unit: needs-unit
	NETCONF_EXAMPLES=8 $(PYTHON) -m pytest -n $$((2 * $$(nproc))) -m 'not thorough' $(PYTEST) tests/unit

# One after the other, since other load would change the measurements.
latencies: root needs-test deb
	$(HAND_BACK)
	rm -rf build/latencies
	NETCONF_LATENCIES=all $(PYTHON) -m pytest $(PYTEST) tests/lab/attacks/test_busy.py || status=$$?
	$(PYTHON) -m tests.lab.attacks.latencies
	exit "$${status:-0}"

# As many rounds, links and points of these tests: `make test` has fewer.
soak: root needs-test deb
	$(HAND_BACK)
	NETCONF_SOAK=$(or $(SOAK),50) NETCONF_SOAK_GATEWAYS=$(or $(GATEWAYS),100) NETCONF_EXAMPLES=3000 \
		$(PYTHON) -m pytest -rP $(PYTEST) tests/lab/test_soak.py tests/lab/test_soak_gateways.py \
		tests/lab/attacks/test_cut_off.py tests/lab/attacks/test_killed.py tests/lab/attacks/test_many.py \
		tests/unit/evidence tests/unit/test_observation.py

mutants: needs-unit
	$(PYTHON) -m tests.mutants $(MUTANTS) $(FILE)

lint: needs-lint
	$(PYTHON) -m flake8 netconf_hooks tests $(PROGRAMS)
	$(PYTHON) -m mypy -p netconf_hooks
	vulture --ignore-names '$(ALIVE)' netconf_hooks $(PROGRAMS)
	git -c safe.directory='*' ls-files -z .ci debian docs libexec tests | xargs -0 awk \
		'FNR == 1 && (/^#!.*\/(env )?(ba)?sh/ || /^# shellcheck shell=/) { print FILENAME }' | xargs shellcheck
	for page in docs/*.[0-9]; do
		# The same check as lintian's; man exits 0 even with warnings.
		warnings=$$(LC_ALL=C.UTF-8 MANROFFSEQ= MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$$page" 2>&1 >/dev/null)
		[ -z "$$warnings" ] || { printf '%s: %s\n' "$$page" "$$warnings" >&2; exit 1; }
		mandoc -T lint -W warning "$$page"
	done

# Build a copy of the files as they are, committed or not; the checkout itself is not touched.  `make test` runs the unit
# tests, so none run here.  -d: NEEDS_deb has everything; the compilers of build-essential are not needed.
deb: needs-deb
	mkdir -p build
	$(HAND_BACK)
	exec 9>build/.lock
	flock 9
	files() {
		git -c safe.directory='*' ls-files -z --cached --others --exclude-standard -- $(SHIPPED) | sort -zu |
			while IFS= read -r -d '' file; do [ ! -e "$$file" ] || printf '%s\0' "$$file"; done
	}
	files | tar --no-recursion --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
		--null --files-from=- -cf build/tree.tar
	sum=$$(sha256sum <build/tree.tar)
	if [ "$$(cat build/deb.sum 2>/dev/null)" != "$$sum" ]; then
		rm -rf build/deb build/deb.sum build/*.deb build/*.changes build/*.buildinfo
		mkdir -p build/deb/tree
		tar -C build/deb/tree -xmf build/tree.tar
		(cd build/deb/tree && DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -b -d -nc -us -uc -Pnocheck) >build/deb.log 2>&1 ||
			{ tail -n 40 build/deb.log >&2; exit 1; }
		mv build/deb/*.deb build/deb/*.changes build/deb/*.buildinfo build/
		rm -rf build/deb
		printf '%s\n' "$$sum" >build/deb.sum
	fi
	rm build/tree.tar
	ls build/*.deb

clean:
	rm -rf build .hypothesis netconf_hooks.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

root:
	[ "$$(id -u)" = 0 ] || {
		echo "This creates network namespaces and needs root: sudo make $(MAKECMDGOALS)" >&2
		exit 1
	}

# SYSTEMD_OFFLINE (systemd's docs/ENVIRONMENT.md) keeps the packages' scripts from starting or restarting anything.
needs-%:
	wanted=$$(printf '%s\n' $(NEEDS_$*) | sort -u)
	missing() {
		comm -23 <(echo "$$wanted") \
			<(dpkg-query -W -f '$${Package} $${db:Status-Status}\n' $$wanted 2>/dev/null | sed -n 's/ installed$$//p' | sort -u)
	}
	packages=$$(missing | xargs)
	[ -n "$$packages" ] || exit 0
	if [ "$$(id -u)" != 0 ]; then
		echo "Missing here: apt install $$packages" >&2
		exit 1
	fi
	echo "Installing $$packages"
	install_packages() {
		SYSTEMD_OFFLINE=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
			install --no-install-recommends --no-upgrade "$$@"
	} >>build/apt.log 2>&1
	mkdir -p build
	if ! install_packages $$packages; then
		apt-get -qq -o DPkg::Lock::Timeout=300 update
		# If this release of Debian lacks a package, install the others; the tests report what is missing.
		install_packages $$packages || for package in $$packages; do install_packages "$$package" || true; done
	fi
	packages=$$(missing | xargs)
	[ -z "$$packages" ] || echo "Could not be installed: $$packages (build/apt.log says why)" >&2
