"""The attack lab: a capture on the café's side of the wire judges what leaves the laptop.

Every attack is one story told once without the guard, where it must leak (else it would prove nothing), and once with
each firewall that can hold it, where not one packet may leave that is neither DHCP, ARP, neighbour discovery nor the
tunnel's own.  `capture` sees and judges, `traffic` sends, `hostile` is what a café can do, `scene` puts them together.
"""
