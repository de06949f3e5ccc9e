"""A student that is accurate and robust: MTARD from a clean teacher and one that was trained against attacks."""

from dataclasses import replace

import torch

import limbeck as lb
from limbeck.data import AdversarialLoader, Attack

data = lb.load_data("digits")
shape = {"inputs": 64, "classes": 10}
highest = 16  # the pixels of digits go from 0 to 16, and epsilon is a fraction of that
attack = Attack(epsilon=0.1, steps=5, keep_clean=False, high=highest)
supervised = next(lb.methods.make("supervised").stages())
common = {"epochs": 10, "preprocess": data.preprocess, "optimizer": lb.Optimizer("adamw", lr=3e-3)}


def measure(model, name):
    """Print the accuracy on test images, as they are and after 20 steps of an attack."""
    loader = AdversarialLoader(
        lb.ShuffledLoader(data.test, batch_size=500, shuffle=False), Attack(epsilon=0.1, steps=20, high=highest)
    )
    loader.set_preprocess(data.preprocess)
    loader.bind({"student": model.eval()})
    batch = loader.complete(loader.peek())
    with torch.no_grad():
        right = (model(data.preprocess(batch)).argmax(1) == batch.labels).float()
    changed = batch.extra["adversarial"]
    print(f"{name}: {100 * right[~changed].mean():.1f} % clean, {100 * right[changed].mean():.1f} % under attack")


clean = lb.distill(lb.build("mlp", hidden=[128], seed=1, **shape), supervised, data.train, **common).finish().student
against = replace(supervised, loader=attack)
robust = lb.distill(lb.build("mlp", hidden=[128], seed=2, **shape), against, data.train, **common).finish().student
teachers = {"clean": clean, "robust": robust}
recipe = lb.methods.make(
    "mtard", teacher=teachers, clean="clean", robust="robust", epsilon=0.1, attack_steps=5, high=highest
)
student = lb.distill(lb.build("mlp", hidden=[24], seed=3, **shape), recipe, data.train, **common).finish().student
for name, model in {**teachers, "student": student}.items():
    measure(model, name)
