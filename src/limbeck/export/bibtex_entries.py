"""BibTeX entries of data sets, networks, transforms and metrics."""

from __future__ import annotations

_MNIST = """@article{lecun1998gradient,
  title = {Gradient-Based Learning Applied to Document Recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume = {86},
  number = {11},
  pages = {2278--2324},
  year = {1998}
}"""
_FASHION = """@article{xiao2017fashion,
  title = {{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv preprint arXiv:1708.07747},
  year = {2017}
}"""
_CIFAR = """@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009}
}"""
_DIGITS = """@misc{alpaydin1998optical,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, E. and Kaynak, C.},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
  year = {1998}
}"""
_RESNET = """@inproceedings{he2016deep,
  title = {Deep Residual Learning for Image Recognition},
  author = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2016}
}"""
_DISTILBERT = """@article{sanh2019distilbert,
  title = {{DistilBERT}, a Distilled Version of {BERT}: Smaller, Faster, Cheaper and Lighter},
  author = {Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas},
  journal = {arXiv preprint arXiv:1910.01108},
  year = {2019}
}"""
_MIXUP = """@inproceedings{zhang2018mixup,
  title = {mixup: Beyond Empirical Risk Minimization},
  author = {Zhang, Hongyi and Cisse, Moustapha and Dauphin, Yann N. and Lopez-Paz, David},
  booktitle = {International Conference on Learning Representations},
  year = {2018}
}"""
_CUT_MIX = """@inproceedings{yun2019cutmix,
  title = {{CutMix}: Regularization Strategy to Train Strong Classifiers with Localizable Features},
  author = {Yun, Sangdoo and Han, Dongyoon and Oh, Seong Joon and Chun, Sanghyuk and Choe, Junsuk and Yoo, Youngjoon},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019}
}"""
_CUT_OUT = """@article{devries2017improved,
  title = {Improved Regularization of Convolutional Neural Networks with Cutout},
  author = {DeVries, Terrance and Taylor, Graham W.},
  journal = {arXiv preprint arXiv:1708.04552},
  year = {2017}
}"""
_RAND_AUGMENT = """@inproceedings{cubuk2020randaugment,
  title = {{RandAugment}: Practical Automated Data Augmentation with a Reduced Search Space},
  author = {Cubuk, Ekin D. and Zoph, Barret and Shlens, Jonathon and Le, Quoc V.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}"""
_RESIZED_CROP = """@inproceedings{szegedy2015going,
  title = {Going Deeper with Convolutions},
  author = {Szegedy, Christian and Liu, Wei and Jia, Yangqing and Sermanet, Pierre and Reed, Scott
            and Anguelov, Dragomir and Erhan, Dumitru and Vanhoucke, Vincent and Rabinovich, Andrew},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2015}
}"""
_SAMPLED = """@article{anshumann2025sparse,
  title = {Sparse Logit Sampling: Accelerating Knowledge Distillation in {LLMs}},
  author = {Anshumann and others},
  journal = {arXiv preprint arXiv:2503.16870},
  year = {2025}
}"""
_ECE = """@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning},
  year = {2017}
}"""
_FIDELITY = """@inproceedings{stanton2021does,
  title = {Does Knowledge Distillation Really Work?},
  author = {Stanton, Samuel and Izmailov, Pavel and Kirichenko, Polina and Alemi, Alexander A.
            and Wilson, Andrew Gordon},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}
}"""
_BRIER = """@article{brier1950verification,
  title = {Verification of Forecasts Expressed in Terms of Probability},
  author = {Brier, Glenn W.},
  journal = {Monthly Weather Review},
  volume = {78},
  number = {1},
  pages = {1--3},
  year = {1950}
}"""
_DEVIATION = """@inproceedings{nagarajan2023student,
  title = {On Student-Teacher Deviations in Distillation: Does it Pay to Disobey?},
  author = {Nagarajan, Vaishnavh and Menon, Aditya Krishna and Bhojanapalli, Srinadh and Mobahi, Hossein
            and Kumar, Sanjiv},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}"""
_FAITHFUL = """@article{lamb2023faithful,
  title = {Faithful Knowledge Distillation},
  author = {Lamb, Tom A. and Brunel, Rudy and Dvijotham, Krishnamurthy and Kumar, M. Pawan and Torr, Philip H. S.
            and Eiras, Francisco},
  journal = {arXiv preprint arXiv:2306.04431},
  year = {2023}
}"""
_GROUPS = """@article{lukasik2022teachers,
  title = {Teacher's Pet: Understanding and Mitigating Biases in Distillation},
  author = {Lukasik, Michal and Bhojanapalli, Srinadh and Menon, Aditya Krishna and Kumar, Sanjiv},
  journal = {Transactions on Machine Learning Research},
  year = {2022}
}"""
_CKA = """@inproceedings{kornblith2019similarity,
  title = {Similarity of Neural Network Representations Revisited},
  author = {Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}
@inproceedings{nguyen2021wide,
  title = {Do Wide and Deep Networks Learn the Same Things? {U}ncovering How Neural Network Representations Vary with
            Width and Depth},
  author = {Nguyen, Thao and Raghu, Maithra and Kornblith, Simon},
  booktitle = {International Conference on Learning Representations},
  year = {2021}
}"""
_CORRUPTIONS = """@inproceedings{hendrycks2019benchmarking,
  title = {Benchmarking Neural Network Robustness to Common Corruptions and Perturbations},
  author = {Hendrycks, Dan and Dietterich, Thomas},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""
_INT8 = """@inproceedings{jacob2018quantization,
  title = {Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference},
  author = {Jacob, Benoit and Kligys, Skirmantas and Chen, Bo and Zhu, Menglong and Tang, Matthew and Howard, Andrew
            and Adam, Hartwig and Kalenichenko, Dmitry},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}"""

DATA = {"mnist": _MNIST, "fashion_mnist": _FASHION, "cifar10": _CIFAR, "cifar100": _CIFAR, "digits": _DIGITS}
"""Data sets by limbeck's name."""

VIEWS = {
    "mixup": _MIXUP,
    "cut_mix": _CUT_MIX,
    "cut_out": _CUT_OUT,
    "rand_augment": _RAND_AUGMENT,
    "resized_crop": _RESIZED_CROP,
}
"""Augmentations by the name that a job gives them."""

METRICS = {
    "brier": _BRIER,
    "ece": _ECE,
    "mce": _ECE,
    "worst_class_accuracy": _GROUPS,
    "agreement": _FIDELITY,
    "agreement_where_teacher_wrong": f"{_FIDELITY}\n{_GROUPS}",
    "kl_to_teacher": _FIDELITY,
    "confidence_slope": _DEVIATION,
    "confidence_deviation": _DEVIATION,
    "relative_calibration": _FAITHFUL,
}
"""Measures by name, where a paper is their origin."""

ALSO = {"cka": _CKA, "corruptions": _CORRUPTIONS, "groups": _GROUPS}
"""What a job may have measured besides, by the name that it gives it."""

ENCODINGS = {"sampled": _SAMPLED}
"""Encodings of stored answers."""

INT8 = _INT8
"""Static 8-bit integers."""


def network(name: str) -> str | None:
    """The paper of a network, by the name that a job gives it.

    Example:
        >>> network("resnet20") == network("resnet8"), network("cnn")
        (True, None)
    """
    if name == "shallow":  # a student begun as its teacher's layers
        return _DISTILBERT
    return _RESNET if name.startswith("resnet") and name.removeprefix("resnet").isdecimal() else None
