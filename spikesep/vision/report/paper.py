"""Results of the paper (Wu et al., arXiv:2007.01204): accuracy in percent, mean squared error."""

PAPER: dict[str, dict[str, dict[str, float]]] = {
    # experiment: {architecture: {"ann" or value of the varied setting: result}}
    "table1": {
        "cifar10-alexnet": {"ann": 89.59, "16": 90.86},
        "vgg11": {"ann": 90.59, "16": 91.24},
    },
    "table1_imagenet": {
        "imagenet-alexnet": {"ann": 58.53, "16": 55.19},
        "imagenet-vgg16": {"ann": 71.65, "16": 65.08},
    },
    "table2": {
        "mnist-cnn": {"float32": 99.32, "8": 99.32, "7": 99.30, "6": 99.29, "5": 99.30, "4": 99.29},
        "cifar10-alexnet": {
            "float32": 90.33, "8": 90.11, "7": 90.06, "6": 90.07, "5": 90.04, "4": 89.48,
        },
    },
    "table3": {
        "autoencoder": {
            "ann": 0.00667, "32": 0.00662, "16": 0.01720, "8": 0.02361, "4": 0.02724, "2": 0.03435,
            "1": 0.04032,
        },
    },
    "fig6": {"cifar10-alexnet": {"ann": 89.59, "16": 90.86}},
}  # fmt: skip

SYNOPS_RATIO: dict[str, dict[str, float]] = {"fig6": {"8": 0.315}}


def paper_experiment(name: str) -> str:
    """Return the paper's table or figure that an experiment repeats: `table2` of `table2-mnist`."""
    return name.partition("-")[0]
