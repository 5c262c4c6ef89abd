"""`python -m rbft.tiny`: train and measure the embedded model and encoder, write clips. Torch is loaded where used."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rbft.errors import RbftError, UserError
from rbft.tiny import CHECKPOINT, night_yard
from rbft.tiny.shift import severity_of

_VISION_SHARE = 0.36


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rbft.tiny", description="Train the embedded model, evaluate it, write its clips."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="train a model from scratch and save it as a Hugging Face folder")
    learn.add_argument(
        "--out", type=Path, required=True, help="folder of the run; the model is saved in OUT/checkpoint"
    )
    learn.add_argument(
        "--minutes", type=float, help="as many steps as fit; without it, the steps that made the committed weights"
    )
    learn.add_argument(
        "--seed", type=int, default=0, help="seed of the weights, the clips and the batches (default: 0)"
    )
    learn.add_argument("--clips", type=int, default=40_000, help="clips to render and learn from (default: 40000)")
    learn.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    learn.add_argument("--resume", action="store_true", help="continue the run in OUT")
    compare = commands.add_parser("encoder", help="train the encoder of clips and texts, measure it, save it")
    compare.add_argument(
        "--out", type=Path, required=True, help="folder of the run; the encoder is saved in OUT/encoder"
    )
    compare.add_argument("--seed", type=int, default=0, help="default: 0")
    compare.add_argument("--clips", type=int, default=16_000, help="clips to render and learn from (default: 16000)")
    compare.add_argument("--steps", type=int, help="default: the steps that made the committed weights")
    compare.add_argument("--test", type=int, default=400, help="new clips to measure it on (default: 400)")
    compare.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    compare.add_argument("--resume", action="store_true", help="continue the run in OUT")
    judge = commands.add_parser("evaluate", help="print what a checkpoint can do on clips it has never seen")
    judge.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="default: the embedded one")
    judge.add_argument("--clips", type=int, default=400, help="clips a table (default: 400)")
    judge.add_argument(
        "--severity", type=float, default=night_yard.DEFAULT_SEVERITY, help="of the domain shift, 0 to 1.5"
    )
    judge.add_argument("--card", action="store_true", help="also write the tables into the checkpoint's model card")
    draw = commands.add_parser("render", help="write a night-yard folder: H.264 clips and clips.csv")
    draw.add_argument("--out", type=Path, required=True, help="folder to write")
    draw.add_argument("--train", type=int, default=400, help="labelled training clips (default: 400)")
    draw.add_argument("--test", type=int, default=200, help="labelled test clips (default: 200)")
    draw.add_argument("--unlabelled", type=int, default=0, help="clips without a label (default: 0)")
    draw.add_argument("--seed", type=int, default=0, help="default: 0")
    draw.add_argument(
        "--manifest", default="clips.csv", help="its name; several sizes share clips (default: clips.csv)"
    )
    _add_dials(draw)
    ask = commands.add_parser(
        "questions", help="write a night-yard folder with questions of five types: train.jsonl, cot.jsonl, test.jsonl"
    )
    ask.add_argument("--out", type=Path, required=True, help="folder to write")
    ask.add_argument("--train", type=int, default=200, help="training clips (default: 200)")
    ask.add_argument("--test", type=int, default=100, help="test clips (default: 100)")
    ask.add_argument(
        "--cot", type=int, default=50, help="training clips whose questions have a true thought (default: 50)"
    )
    ask.add_argument("--questions", type=int, default=2, help="questions a clip, of different types (default: 2)")
    ask.add_argument("--severity", default="medium", help="domain shift, as of `render` (default: medium)")
    ask.add_argument("--seed", type=int, default=0, help="default: 0")
    plain = commands.add_parser(
        "general", help="write clean clips of the general world with true descriptions, for `evaluation.retention`"
    )
    plain.add_argument("--out", type=Path, required=True, help="folder to write")
    plain.add_argument("--clips", type=int, default=100, help="default: 100")
    return parser


def _add_dials(draw: argparse.ArgumentParser) -> None:
    steps = ", ".join(night_yard.SEVERITIES)
    default = night_yard.YardDials()
    draw.add_argument("--severity", default="medium", help=f"domain shift: {steps}, or 0 to 1.5 (default: medium)")
    draw.add_argument(
        "--rule", default=default.rule, help="dimensions that the labels go over: attribute, two or three (the default)"
    )
    draw.add_argument("--labels", default=default.labels, help="two, or three at 65, 26 and 9 %% (default: two)")
    draw.add_argument(
        "--balance", type=float, help="share of clips that are not normal (default: 0.5; with three labels 0.35)"
    )
    draw.add_argument(
        "--distractor", type=float, default=0.0, help="share of training clips in which it tells the label (default: 0)"
    )
    draw.add_argument("--distractor-on", default=default.distractor_on, help="lamps (the default) or light")


def _train(args: argparse.Namespace) -> None:
    import torch

    from rbft.tiny.checkpoint import save_checkpoint
    from rbft.tiny.pool import open_pool
    from rbft.tiny.report import draw_curves, model_card
    from rbft.tiny.train import Settings, train

    torch.set_num_threads(args.threads)
    pool = open_pool(args.out / "pool", args.clips, args.seed)
    settings = Settings(seed=args.seed)
    if args.minutes is not None:
        seeing, speaking = args.minutes * _VISION_SHARE, args.minutes * (1 - _VISION_SHARE)
        settings = replace(settings, vision_minutes=seeing, language_minutes=speaking, vision_steps=0, language_steps=0)
    trainee = train(args.out, pool, settings, resume=args.resume)
    folder = args.out / "checkpoint"
    save_checkpoint(trainee.model, trainee.tokenizer, folder, model_card({}))
    draw_curves(args.out / "log.jsonl", args.out / "curves.png")
    print(f"saved {folder}; its curves: {args.out / 'curves.png'}")
    print(f"measure it with: python -m rbft.tiny evaluate --checkpoint {folder}")


def _encoder(args: argparse.Namespace) -> None:
    import torch

    from rbft.tiny.encoder import save_encoder
    from rbft.tiny.encoder_evaluate import encoder_card, encoder_tables, evaluate_encoder
    from rbft.tiny.encoder_training import Settings, new_learner, open_pools, train_encoder

    torch.set_num_threads(args.threads)
    settings = Settings(seed=args.seed)
    if args.steps is not None:
        settings = replace(settings, steps=args.steps)
    learner = new_learner(*open_pools(args.out, args.clips, args.seed), args.seed)
    train_encoder(args.out, learner, settings, resume=args.resume)
    folder = args.out / "encoder"
    save_encoder(learner.model, learner.tokenizer, folder, encoder_card({}))
    results = evaluate_encoder(folder, args.test)
    (folder / "README.md").write_text(encoder_card(results), encoding="utf-8")
    print(f"saved {folder}\n\n{encoder_tables(results)}")


def _evaluate(args: argparse.Namespace) -> None:
    from rbft.tiny.checkpoint import load_checkpoint
    from rbft.tiny.evaluate import evaluate
    from rbft.tiny.report import model_card, results_tables

    model, processor = load_checkpoint(args.checkpoint)
    results = evaluate((model, processor.tokenizer), args.clips, args.severity)
    print(results_tables(results))
    if args.card:
        (args.checkpoint / "README.md").write_text(model_card(results), encoding="utf-8")


def _render(args: argparse.Namespace) -> None:
    """Write the clips, then print the lines that an experiment file needs. A fault of the user is exit code 2."""
    try:
        dials = night_yard.YardDials(
            severity=severity_of(args.severity),
            rule=args.rule,
            labels=args.labels,
            balance=args.balance,
            distractor=args.distractor,
            distractor_on=args.distractor_on,
        )
        path = night_yard.write_night_yard(
            args.out,
            dials,
            num_train=args.train,
            num_test=args.test,
            num_unlabelled=args.unlabelled,
            seed=args.seed,
            manifest=args.manifest,
        )
    except RbftError as error:
        _stop(error)
    print(night_yard.experiment_lines(path, dials), end="")


def _general(args: argparse.Namespace) -> None:
    from rbft.tiny.general import write_general

    if args.clips < 1:
        _stop(UserError(f"--clips {args.clips}: there is nothing to write; give 1 or more"))
    try:
        path = write_general(args.out, args.clips)
    except RbftError as error:
        _stop(error)
    print(f"evaluation:\n  retention: {json.dumps(str(path))}")


def _questions(args: argparse.Namespace) -> None:
    """Write clips and questions, then print the lines that an experiment file needs."""
    from rbft.tiny.yard_questions import write_yard_questions

    try:
        files = write_yard_questions(
            args.out,
            night_yard.YardDials(severity=severity_of(args.severity)),
            num_train=args.train,
            num_test=args.test,
            num_cot=args.cot,
            per_clip=args.questions,
            seed=args.seed,
        )
    except RbftError as error:
        _stop(error)
    named = "".join(f"  {name}: {json.dumps(str(path))}\n" for name, path in files._asdict().items())
    print(f"questions:\n{named}", end="")


def _stop(error: RbftError) -> NoReturn:
    print("\n".join(f"rbft.tiny: {line}" for line in str(error).splitlines()), file=sys.stderr)
    raise SystemExit(error.exit_code) from None


def main() -> None:
    """Parses the command line and runs one command."""
    args = _parser().parse_args()
    match args.command:
        case "train":
            _train(args)
        case "encoder":
            _encoder(args)
        case "evaluate":
            _evaluate(args)
        case "render":
            _render(args)
        case "questions":
            _questions(args)
        case "general":
            _general(args)


if __name__ == "__main__":
    main()
