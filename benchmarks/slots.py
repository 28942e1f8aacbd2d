"""Do slots find the objects of Collisions? Three seeds of the autoencoder that C-JEPA trains first, one thread each.

FG-ARI and mBO over whole validation clips of 8 frames, most of them longer than what was trained on. Pictures and
weights go to runs/slots. The best of three seeds is what the goal of 0.8 is about; all three are reported.
"""
