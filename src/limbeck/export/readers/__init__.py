"""The parts that `limbeck.export.reader` joins to ``read.py``, which reads raw rows without limbeck."""
