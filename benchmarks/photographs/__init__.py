"""How well the faces of photographs are found, restored and put back: ``python -m benchmarks.photographs``.

Pictures come from AMINET_FACES: faces of 128x128 in test_a/ and test_b/, photographs and their faces.csv in wild/.
"""
