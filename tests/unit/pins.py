"""What is pinned in a hosts file, read by another reader than the package's own."""


def read_pins(device, path):
    """Return the addresses of each name that is pinned for a device."""
    with open(path, "rb") as file:
        lines = [line.decode(errors="surrogateescape").rstrip("\r") for line in file.read().split(b"\n")]
    found = {}
    for line in lines:
        written, mark, owner = line.rpartition(" # netconf-hooks: guard of ")
        if mark and owner == device:
            address, *names = written.split()
            for name in names:
                found.setdefault(name, []).append(address)
    return {name: tuple(addresses) for name, addresses in found.items()}
