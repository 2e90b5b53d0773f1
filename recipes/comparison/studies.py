"""The papers' experiments as records: which lines, with which options, drawn how."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial


class Drawing(Enum):
    """What the figure of a study shows."""

    CURVES = "training loss and metric over epochs"
    SPARSITY = "metric over sparsity"
    SENSITIVITY = "metric over a hyperparameter"


@dataclass(frozen=True)
class Line:
    """One line of a figure, or one point of it."""

    series: str
    options: str  # of the recipe, as a shell has them
    value: float | None = None  # of the hyperparameter that the study varies

    @property
    def label(self) -> str:
        return self.series if self.value is None else f"{self.series} {self.value:g}"


@dataclass(frozen=True)
class Study:
    """An experiment: its lines, each run with several seeds."""

    source: str
    recipe: str
    title: str
    common: str  # options of every line
    lines: tuple[Line, ...]
    drawing: Drawing = Drawing.CURVES
    metric: str = "test_accuracy"
    varies: str = ""  # the hyperparameter, where the drawing is SENSITIVITY
    seeds: tuple[int, ...] = (0, 1, 2)
    milestone: int | None = None  # training losses are compared at the end of this epoch; None: of the last


_ZHANG = "Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519"
_CHAO = "Chao, Wang, Xing, Cheng, NeurIPS 2020, arXiv 2006.09358"
_WU = "Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282"
_COLLECTION = "the collection Optimization for Deep Learning: its README and its table of hyperparameters"


def _clipping(sgd: str, normalized: str, clip: str, mom: str, mix: str) -> tuple[Line, ...]:
    return (
        Line("SGD", f"--algo sgd {sgd}"),
        Line("NormalizedSGD", f"--algo normalized_sgd {normalized}"),
        Line("SGDClip", f"--algo sgd_clip {clip}"),
        Line("MomClip", f"--algo mom_clip {mom}"),
        Line("MixClip", f"--algo mix_clip {mix}"),
    )


# In their code SGD's momentum is an average: lr 1.0 and momentum 0.9 there are lr 0.1 and momentum 0.9 of torch's.
_CLIPPING_CIFAR = _clipping(
    "--lr 0.1 --momentum 0.9",
    "--lr 0.1 --momentum 0.9",
    "--lr 1.0 --gamma 1.0 --momentum 0",
    "--lr 1.0 --gamma 1.0 --momentum 0.9",
    "--lr 1.0 --gamma 1.0 --momentum 0.999 --nu 0.7",
)


# For LeNet: of three or four values each, the lowest training loss after 12 epochs on CIFAR-10's subset, with one seed.
# An average over 1,000 steps (momentum 0.999) is ten epochs there, and one over 100 did better.
_CLIPPING_SMALL = _clipping(
    "--lr 0.03 --momentum 0.9",
    "--lr 0.1 --momentum 0.9",
    "--lr 1.0 --gamma 0.3 --momentum 0",
    "--lr 1.0 --gamma 0.1 --momentum 0.9",
    "--lr 1.0 --gamma 0.3 --momentum 0.99 --nu 0.7",
)

# The code's README has those of SGDClip, which with the average is AWD-LSTM's own training, and of MixClip.
_LANGUAGE = (
    Line("SGDClip", "--algo sgd_clip --lr 30 --gamma 7.5 --momentum 0"),
    Line("MomClip", "--algo mom_clip --lr 30 --gamma 7.5 --momentum 0.9"),
    Line("MixClip", "--algo mix_clip --lr 30 --gamma 5 --momentum 0.999 --nu 0.7"),
)

# Of a few values each, the lowest perplexity after two epochs with one seed. SGD diverges with the others' lr.
_LANGUAGE_SMALL = (
    Line("SGD, lr 20", "--algo sgd --lr 20"),
    Line("SGD, lr 10", "--algo sgd --lr 10"),
    Line("SGDClip", "--algo sgd_clip --lr 20 --gamma 4 --momentum 0"),
    Line("MomClip", "--algo mom_clip --lr 20 --gamma 4 --momentum 0.9"),
    Line("MixClip", "--algo mix_clip --lr 20 --gamma 3 --momentum 0.99 --nu 0.7"),
)


def _pruning(c: float, *mus: float) -> tuple[Line, ...]:
    lines = (Line("gRDA mu", f"--algo grda --lr 0.1 --c {c} --mu {mu}", mu) for mu in mus)
    return (Line("SGD", "--algo sgd --lr 0.1"), *lines)


# Each threshold as it is, and steered to a share of zeros that is asked for.
_TARGETS = (
    *(Line("gRDA, fixed c", f"--algo grda --lr 0.1 --mu 0.6 --c {c}", c) for c in (0.002, 0.005, 0.01, 0.02, 0.04)),
    *(
        Line(series, f"{options} --target-sparsity {share}", share)
        for series, options in (
            ("gRDA, asked for", "--algo grda --lr 0.1 --mu 0.6 --c 0.005"),
            ("LinBreg, asked for", "--algo lin_breg --lr 0.1 --lam 0.01"),
            ("AdaBreg, asked for", "--algo ada_breg --lr 0.002 --lam 0.01"),
        )
        for share in (0.5, 0.8, 0.9, 0.95)
    ),
)

_ADALOSS = (
    ("AdaLoss", "adaloss"),
    ("AdaGradNorm", "adagrad_norm"),
    ("SGD_Constant", "sgd_constant"),
    ("SGD_DecaySqrt", "sgd_sqrt"),
)


def _adaloss(lr: float) -> tuple[Line, ...]:
    return tuple(
        Line(series, f"--algo {algo} --lr {lr} --b0 {b0}", b0)
        for series, algo in _ADALOSS
        for b0 in (0.01, 0.1, 1.0, 10.0, 100.0)
    )


# The code's table of hyperparameters, all with lr = 0.001; an lr of its SGD is what it is there.
_EIGHTEEN = (
    Line("SGD", "--algo sgd --lr 1e-3"),
    Line("SGD w/ momentum", "--algo momentum --lr 1e-3 --momentum 0.99"),
    Line("SGD w/ Nesterov momentum", "--algo nesterov --lr 1e-3 --momentum 0.99"),
    Line("SGDW", "--algo sgdw --lr 1e-3 --momentum 0.99 --wd 1e-6"),
    Line("SGD w/ momentum + LRD", "--algo momentum --lr 1e-3 --momentum 0.99 --lr-dropout 0.5"),
    Line("RMSprop", "--algo rmsprop --lr 1e-3 --alpha 0.9"),
    Line("Adam", "--algo adam --lr 1e-3"),
    Line("AdamL2", "--algo adam_l2 --lr 1e-3 --wd 1e-4"),
    Line("AdamW", "--algo adamw --lr 1e-3 --wd 1e-4"),
    Line("Adam w/ LRD", "--algo adam --lr 1e-3 --lr-dropout 0.5"),
    Line("RAdam", "--algo radam --lr 1e-3"),
    Line("RAdamW", "--algo radamw --lr 1e-3 --wd 1e-4"),
    Line("RAdam w/ LRD", "--algo radam --lr 1e-3 --lr-dropout 0.5"),
    Line("Nadam", "--algo nadam --lr 1e-3"),
    Line("Lookahead (SGD)", "--algo momentum --lr 1e-3 --momentum 0.99 --lookahead 5"),
    Line("Lookahead (Adam)", "--algo adam --lr 1e-3 --lookahead 5"),
    Line("Gradient Noise (Adam)", "--algo adam --lr 1e-3 --gradient-noise 0.3"),
    Line("Gradient Dropout (Adam)", "--algo adam --lr 1e-3 --gradient-dropout 0.1"),
)

_zhang = partial(Study, _ZHANG, "image")
_chao = partial(Study, _CHAO, "image")
_wu = partial(Study, _WU, "image")
_collection = partial(Study, _COLLECTION, "image")

STUDIES: Mapping[str, Study] = {
    "clipping": _zhang(
        "Clipping algorithms, ResNet-32 on CIFAR-10",
        '--dataset cifar10 --augment --model "resnet(32,1)" -b 128 --wd 5e-4 --epochs 80,120,150',
        _CLIPPING_CIFAR,
        milestone=80,
    ),
    "clipping-subset": _zhang(
        "Clipping algorithms, ResNet-32 on a fifth of CIFAR-10",
        '--dataset cifar10_subset --augment --model "resnet(32,1)" -b 128 --wd 5e-4 --epochs 80,120,150',
        _CLIPPING_CIFAR,
        seeds=(0,),
        milestone=80,
    ),
    "pruning": _chao(
        "Directional pruning, VGG16 on CIFAR-10",
        "--dataset cifar10 --augment --model vgg16 -b 128 --epochs 600 --schedule linear",
        _pruning(0.0005, 0.4, 0.51, 0.6, 0.7),
        Drawing.SPARSITY,
    ),
    "adaloss": Study(
        _WU,
        "finetune",
        "Fine-tuning ViT-S/16 on CIFAR-100",
        "--dataset cifar100 --model vit_small_patch16_224 -b 128 --wd 1e-4 --epochs 10",
        _adaloss(lr=0.1),
        Drawing.SENSITIVITY,
        varies="b0",
    ),
    "collection": _collection(
        "The collection's eighteen optimizers, the 808,458-parameter CNN on CIFAR-10",
        "--dataset cifar10 --model cnn -b 128 --epochs 30 --schedule plateau",
        _EIGHTEEN,
        seeds=(0,),
    ),
    "clipping-small": _zhang(
        "Clipping algorithms, LeNet on a fifth of CIFAR-10",
        "--dataset cifar10_subset --augment --model lenet -b 128 --wd 5e-4 --epochs 20,26,30",
        _CLIPPING_SMALL,
        milestone=20,
    ),
    "clipping-mnist": _zhang(
        "Clipping algorithms, LeNet on MNIST",
        "--dataset mnist --model lenet -b 128 --wd 5e-4 --epochs 4,5,6",
        _CLIPPING_SMALL,
        milestone=4,
    ),
    "adaloss-small": _wu(
        "AdaLoss and its baselines, LeNet on a fifth of CIFAR-10",
        "--dataset cifar10_subset --model lenet -b 128 --epochs 10",
        _adaloss(lr=1.0),
        Drawing.SENSITIVITY,
        varies="b0",
    ),
    "collection-mnist": _collection(
        "The collection's eighteen optimizers, MLP of 64 hidden units on 16,384 images of MNIST",
        "--dataset mnist --train-images 16384 --model mlp -b 128 --epochs 30 --schedule plateau",
        _EIGHTEEN,
    ),
    "pruning-small": _chao(
        "Directional pruning, LeNet on a fifth of CIFAR-10",
        "--dataset cifar10_subset --augment --model lenet -b 128 --epochs 40 --schedule linear",
        _pruning(0.003, 0.51, 0.6, 0.7),
        Drawing.SPARSITY,
    ),
    "pruning-mnist": _chao(
        "Directional pruning, LeNet on MNIST",
        "--dataset mnist --model lenet -b 128 --epochs 6 --schedule linear",
        _pruning(0.005, 0.51, 0.6, 0.7),
        Drawing.SPARSITY,
    ),
    "sparsity": Study(
        f"{_CHAO}; Bungert et al., JMLR 2022, arXiv 2105.04319",
        "image",
        "A share of zeros that is asked for, beside fixed thresholds: MLP on 16,384 images of MNIST",
        "--dataset mnist --train-images 16384 --model mlp -b 128 --epochs 10 --schedule linear",
        _TARGETS,
        Drawing.SPARSITY,
        seeds=(0, 1),
    ),
    "lm": Study(
        _ZHANG,
        "lm",
        "Clipping algorithms, AWD-LSTM on the Penn Treebank",
        "--data ptb -b 20 --epochs 250 --wd 1.2e-6",
        _LANGUAGE,
        metric="valid_perplexity",
        seeds=(0,),
    ),
    "lm-small": Study(
        _ZHANG,
        "lm",
        "Clipping algorithms, a small AWD-LSTM on the first 300,000 characters of tiny Shakespeare",
        "--data tiny_shakespeare.txt --level character --train-tokens 300000 --emsize 100 --nhid 200 --nlayers 2 "
        "--dropout 0.2 --dropouth 0.1 --dropouti 0.1 --dropoute 0 --wdrop 0.2 --bptt 35 --epochs 6",
        _LANGUAGE_SMALL,
        metric="valid_perplexity",
        seeds=(0, 1),
    ),
}
