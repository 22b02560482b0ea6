#!/bin/sh
# What the public client's self-test starts in the instance. What it prints is the instance's log.
cd / && exec python3 -E -s -S -u -m verification
