"""Read files of weights and of exported models without running code that they bring."""
