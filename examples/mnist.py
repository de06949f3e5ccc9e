"""The job of mnist.yaml in Python, with the same output folder, table and verdict."""

import limbeck as lb

if __name__ == "__main__":
    job = {
        "data": "mnist",
        "teacher": {"model": "mlp", "hidden": [1200, 1200], "dropout": 0.5, "input_dropout": 0.2,
                    "train": {"epochs": 15, "batch_size": 256, "shift": 2}},
        "student": {"model": "mlp", "hidden": [800, 800]},
        "method": {"name": "hinton", "temperature": 4.0, "weight": 0.9},
        "budget": {"epochs": 8, "batch_size": 256},
        "out": "runs/mnist-python",
    }  # fmt: skip
    result = lb.run_job(lb.make_job(job))
    for arm, row in result["arms"].items():
        print(f"{arm:16} {100 * (1 - row['accuracy']['mean']):.2f} % wrong")
    print(result["verdict"]["sentence"])
