"""What the self-test image runs: the machine's steps one after the other, told over TLS to whoever asks.

It lies at /verification of the image and needs Python's own library only. The words and the protocol are those of the
public client's `self-test machine`: it rents the machine, runs remote.sh there, and reads https://IP:PORT/progress.
"""
