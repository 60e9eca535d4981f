"""What a run came to, for people and for programs: sentence, terminal, HTML and JSON.

Everything here is made from a `RunRecord` alone, so any stored run is drawn again on a machine
without a GPU. This module imports nothing: the terminal must not pay for the charts.
"""
