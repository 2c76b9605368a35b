"""The cheapest mix of device types for a traffic within objectives on latency (Mélange, arXiv 2404.14527).

`profile` says how many requests a second of each bucket each type serves, `problem` and `solve` choose counts and
shares, `simulate` plays requests against the choice, `sensitivity` asks what another rate, objective or price would
change.
"""
