"""Rendering whole data sets: maps are read, rendered by servers and written as pictures, and a
manifest knows what is done.

    reading/    data sets of maps            run.py        a run that is iterated; begin here
    writing/    places for pictures          pipeline.py   what happens to a map, in order
    watching/   progress, log, metrics       servers.py    which server is asked, and when not
    cluster/    the same with Ray            manifest.py   what is done
"""
