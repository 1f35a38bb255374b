"""What the scripts below ``data/`` share: they turn published annotations into manifests.

A script reads one format (`reading`) and gives rows that want a file (`writing.Wanted`); `writing.write` looks for the
files (`finding`) and writes the manifest.
"""
