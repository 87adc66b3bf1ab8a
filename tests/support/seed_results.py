"""The results of a small run, as far as runs of several seeds are compared by them."""

TRAIN = {"test": {"flat": {"exact_match": 0.97, "last_digit": 0.98}, "paren": {"exact_match": 0.95}}, "seconds": 600}


BEST_SETS = [
    {"direction": direction, "size": size, "set": name, "value": value}
    for direction, size, name, value in [
        ("denoising", "4", "best", "0.8"),
        ("denoising", "4", "average", "0.4"),
        ("denoising", "3", "best", "0.7"),
        ("noising", "4", "best", "0.9"),
    ]
]


def counterfactual(first: float) -> dict:
    rows = {"top_k": {"recovery": {"value": first}}, "L0H0": {"recovery": {"value": 0.1}}}
    values = {"L0H0": first, "L0H1": 0.25, "L1H0": 0.75 - first}
    return {
        "effects": {"regroup": {"denoising": rows, "noising": rows}},
        "shapley": {"denoising": {name: {"value": value} for name, value in values.items()}},
        "verdict": {
            "L0H0": {"sufficient": 1, "necessary": 1},
            "L0H1": {"sufficient": 0, "necessary": 1},
            "L1H0": {"sufficient": 0, "necessary": 0},
        },
    }
