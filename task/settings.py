"""Settings of the stages: one section of the task file each; `task.serving_settings` has the section `serving`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from task.endpoint import BaseUrl, ExtraBody

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
EvidenceKind = Literal["items", "bought", "neighbours"]
ContextKind = Literal["examples", "bought", "converted", "similar", "items", "neighbours"]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Retrieval(Strict):
    """Hybrid search: BM25 and dense lists of `depth` items each, fused by reciprocal rank; `items` are kept.

    `use` names the kinds of evidence that the catalog teacher uses (those of an LLM are in `teacher.openai.context`).
    """

    use: tuple[EvidenceKind, ...] = ("items", "bought", "neighbours")
    embedder: str = "all-MiniLM-L6-v2"
    depth: Positive = 50
    items: Positive = 16
    neighbours: Annotated[int, Field(ge=0)] = 8
    rrf_k: Positive = 60


class OpenAI(Strict):
    """Any OpenAI-compatible endpoint. The key is read from the environment variable `api_key_env`.

    `timeout_s` limits an attempt, `deadline_s` a call with all its attempts. `concurrency` is the maximum of calls in
    flight; the actual number adapts to the server. `samples` asks again at `sample_temperature`, `compare_bare` asks
    without context, `verify` asks whether each label is right: confidence signals that cost a call each. `context`
    names what retrieval puts into the prompt, in at most `context_tokens`. The fields of `extra_body` are added to
    every request; null leaves a field out, and `max_completion_tokens` replaces `max_tokens`. `batch_requests` is the
    number of requests in a file of `openai-batch`, `batch_poll_s` the interval of polling.
    """

    base_url: BaseUrl = "https://api.openai.com/v1"
    model: str = "gpt-4.1-mini"
    api_key_env: str = "OPENAI_API_KEY"
    prompt: str | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    max_tokens: Positive = 512
    concurrency: Positive = 64
    requests_per_minute: Annotated[float, Field(gt=0.0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0.0)] | None = None
    timeout_s: Annotated[float, Field(gt=0.0)] = 60.0
    deadline_s: Annotated[float, Field(gt=0.0)] = 600.0
    max_attempts: Positive = 5
    repair: bool = True
    structured_output: bool = True
    logprobs: bool = False
    samples: Annotated[int, Field(ge=0, le=32)] = 0
    sample_temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    compare_bare: bool = False
    verify: bool = False
    few_shot: Annotated[int, Field(ge=0)] = 5
    context: tuple[ContextKind, ...] = ("examples", "bought", "converted", "similar", "items", "neighbours")
    context_tokens: Positive = 1_000
    extra_body: ExtraBody = {}
    batch_requests: Annotated[int, Field(ge=1, le=50_000)] = 20_000
    batch_poll_s: Annotated[float, Field(gt=0.0)] = 30.0
    price_input_per_million: Annotated[float, Field(ge=0.0)] | None = None
    price_output_per_million: Annotated[float, Field(ge=0.0)] | None = None
    budget: Annotated[float, Field(gt=0.0)] | None = None


class EngineSettings(Strict):
    """How vLLM runs a model; without a GPU its matrix products use `cpu_threads`, by default all cores but one.

    `warm_start`, without a GPU: engines are forked from a process that has imported vLLM already, so that starting
    them, also after a crash, is several times as fast.
    """

    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    max_model_len: Positive = 512
    max_num_seqs: Positive = 64
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 1.0
    gpu_memory_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    enforce_eager: bool = True
    extra_args: tuple[str, ...] = ()
    start_timeout_s: Annotated[float, Field(gt=0.0)] = 300.0
    warm_start: bool = True
    cpu_threads: Positive | None = None


class LocalTeacher(EngineSettings):
    """A teacher model that vLLM serves on this machine; prompt and requests are set in `openai`."""

    model: str = "SmolLM2-135M-Instruct"
    max_model_len: Positive = 4096
    kv_cache_gib: Annotated[float, Field(gt=0.0)] = 2.0


class Confidence(Strict):
    """Calibration of a label's confidence on the gold calibration rows; `docs/teacher.md` describes the method.

    The threshold is the lowest at which labels reach `target_precision` on these rows, unless `threshold` gives it; 0
    keeps every label.
    """

    method: Literal["logistic", "isotonic"] = "logistic"
    target_precision: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.98
    threshold: Fraction | None = None
    min_rows: Positive = 50


class Teacher(Strict):
    """How queries get their labels.

    `workers` spreads an LLM job over that many Ray Data workers, on the cluster at `ray_address` or on this machine;
    0 runs the job in this process. In both cases one process owns the ledger.
    """

    backend: Literal["catalog", "openai", "openai-batch", "vllm", "labels"] = "catalog"
    retrieval: Retrieval = Retrieval()
    openai: OpenAI = OpenAI()
    vllm: LocalTeacher = LocalTeacher()
    confidence: Confidence = Confidence()
    fuzzy: Annotated[float, Field(ge=50.0, le=100.0)] = 80.0
    min_confidence: Fraction = 0.5
    workers: Annotated[int, Field(ge=0)] = 0
    ray_address: str | None = None


class CrossFit(Strict):
    """Find label errors before training, by the predictions of students trained on the other folds.

    `steps` are the training steps of each student (by default a third of the task's); `action` masks a suspect label,
    drops its row, or asks the LLM again, showing it the prediction.
    """

    folds: Annotated[int, Field(ge=2, le=10)] = 2
    steps: Positive | None = None
    action: Literal["mask", "drop", "ask"] = "mask"


class Curriculum(Strict):
    """Which accepted labellings the student is trained on, and in which order.

    A pattern is a query with the values of `pattern_roles` replaced by their roles (`{brand} oat milk {size}`); of
    each at most `max_per_pattern` rows are used, the most frequent queries first. A labelling with a label below the
    teacher's threshold is left out as a whole, or used with that label's words masked in the loss (`doubtful: mask`).
    """

    order: Literal["easy-to-hard", "shuffled", "hard-to-easy", "growing"] = "shuffled"
    doubtful: Literal["leave-out", "mask"] = "leave-out"
    cross_fit: CrossFit | None = None
    pattern_roles: tuple[str, ...] = ()
    max_per_pattern: Positive | None = None
    dev_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    max_dev: Positive = 500
    max_rows: Positive | None = None
    min_confidence: Fraction = 0.0
    seed: int = 0


class Lora(Strict):
    """Low-rank adaptation (Hu et al. 2021).

    `targets` names a group of linear layers (`attention`, `mlp`, `all-linear`: both) or layers as PEFT does. `rslora`
    divides `alpha` by the root of the rank (Kalajdzievski 2023), `dora` trains magnitudes separately (Liu et al. 2024).
    """

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: Literal["all-linear", "attention", "mlp"] | tuple[str, ...] = "all-linear"
    rslora: bool = False
    dora: bool = False


class Student(Strict):
    """The student's base, answer form and training run.

    `softmax` is what the loss of the form `read` normalises over: the `symbols`, which are the classes of a token
    classifier, or the `vocabulary`, which `serving.reader: prompt_logprobs` needs. `transitions` is the weight, in the
    decoding of `read`, of how often one state follows another in the training labels; 0 leaves it out.

    `peft` replaces `lora` by another method of PEFT: its configuration as PEFT takes it, with `peft_type`.
    `init_adapter` continues from an adapter that was trained before. `weighting: confidence` weighs each unit's loss by
    the teacher's confidence in its label. `robust` gives targets that the student finds unlikely smaller gradients: q
    of the generalised cross-entropy, reached half-way through; 0.7 suits labels of which many are wrong. Training ends
    early after `early_stop` evaluations without a better dev F1; with `keep_best` the adapter with the best dev F1 is
    kept, else the last one. `paged_adamw_8bit` keeps the moments in 8 bits, on a GPU in memory that moves to the host
    under pressure (Dettmers et al. 2022, 2023). With `quantization: nf4` the base is held in 4 bits (QLoRA), and the
    adapter is merged into the NF4-rounded base, or into the `plain` one (`merge_base`). `sharding: full` shards the
    base over the workers (FSDP), if it does not fit on one. `report_to` also sends loss, rate and dev F1 to
    TensorBoard, MLflow or Weights & Biases.
    """

    base: str = "SmolLM2-135M-Instruct"
    form: Literal["read", "write", "json"] = "read"
    softmax: Literal["symbols", "vocabulary"] = "symbols"
    segmentation: Literal["auto", "whitespace", "words", "characters"] = "auto"
    transitions: Fraction = 0.0
    lora: Lora = Lora()
    peft: dict[str, Any] | None = None
    init_adapter: str | None = None
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    robust: Fraction = 0.0
    weighting: Literal["none", "confidence"] = "none"
    batch_size: Positive = 32
    accumulation: Positive = 1
    epochs: Annotated[float, Field(gt=0.0)] = 1.0
    max_steps: Positive | None = None
    length_window: Positive = 8
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    eval_every: Positive = 50
    eval_rows: Positive = 300
    save_every: Positive = 50
    keep_best: bool = True
    early_stop: Positive | None = None
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    workers: Positive = 1
    use_gpu: bool = False
    cpus_per_worker: Positive = 2
    ray_address: str | None = None
    max_failures: Annotated[int, Field(ge=0)] = 2
    sharding: Literal["none", "full"] = "none"
    quantization: Literal["none", "nf4"] = "none"
    merge_base: Literal["trained-against", "plain"] = "trained-against"
    gradient_checkpointing: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.quantization == "nf4" and self.dtype != "bfloat16":
            raise ValueError("quantization `nf4` computes in bfloat16; set dtype to match")
        if self.robust and self.label_smoothing:
            raise ValueError("`robust` and `label_smoothing` have opposite effects; leave one out")
        if self.sharding == "full" and self.workers < 2:
            raise ValueError("sharding `full` shards the base over workers: set `workers` to 2 or more")
        if self.sharding == "full" and self.quantization != "none":
            raise ValueError("sharding `full` cannot shard the 4-bit weights of `quantization`; leave one out")
        if self.peft is not None and not isinstance(self.peft.get("peft_type"), str):
            raise ValueError("`peft` needs `peft_type`, the name of a PEFT method such as IA3 or LOHA")
        if self.peft is not None and self.quantization != "none":
            raise ValueError("`peft` with `quantization`: only LoRA can be merged into an NF4 base; leave one out")
        return self


class Latency(Strict):
    """The open-loop runs of the report, `repeats` times `seconds` at `rate` requests a second; 0 seconds skips them.

    `hit_share` of the requests are head queries, which are cached. From five repeats on, intervals include the variance
    between runs.
    """

    rate: Annotated[float, Field(gt=0.0)] = 16.0
    seconds: Annotated[float, Field(ge=0.0)] = 10.0
    repeats: Positive = 5
    hit_share: Fraction = 0.5


class Cost(Strict):
    """Prices for the cost section; prices that are not given come from the dated list `eval/prices.yaml`.

    `*_hour` are dollars for an hour of the machine that labels, trains, serves; `log_days` is the period that the query
    log covers; `cache_rate` is the number of cache hits per second that the serving machine answers;
    `teacher_per_query` is the price of a teacher for which the ledger has none.
    """

    label_hour: Annotated[float, Field(ge=0.0)] | None = None
    train_hour: Annotated[float, Field(ge=0.0)] | None = None
    serve_hour: Annotated[float, Field(ge=0.0)] | None = None
    log_days: Annotated[float, Field(gt=0.0)] = 30.0
    cache_rate: Annotated[float, Field(gt=0.0)] = 1_000.0
    cache_gib_month: Annotated[float, Field(ge=0.0)] | None = None
    teacher_per_query: Annotated[float, Field(ge=0.0)] | None = None


class Eval(Strict):
    """The evaluation: slices by traffic rank, bootstrap, latency run.

    `interval` is `percentile` or `bca` (bias-corrected and accelerated: better where a figure is near 0 or 1). `errors`
    is how many wrong answers the report shows, `note` a text for its top, such as what a reader must know about the
    gold labels.
    """

    head: Positive = 1_000
    torso: Positive = 6_000
    resamples: Positive = 10_000
    interval: Literal["percentile", "bca"] = "percentile"
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    seed: int = 0
    max_rows: Positive | None = None
    reference_rows: Positive = 500
    latency: Latency = Latency()
    cost: Cost = Cost()
    errors: Positive = 300
    note: str = ""

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        if self.torso < self.head:
            raise ValueError(f"`torso` is {self.torso}; expected at least `head`, which is {self.head}")
        return self


class Slo(Strict):
    """The latency limit of answers that are not cache hits: a percentile in milliseconds at `eval.latency.rate`."""

    percentile: Literal["p50", "p95", "p99"] = "p99"
    ms: Annotated[float, Field(gt=0.0)]


class Gates(Strict):
    """Conditions whose violation fails a run (exit code 1) and blocks a release; null disables one.

    Non-inferiority to the teacher and to the released bundle, in F1 and in recall: the whole interval of the paired
    difference must lie above minus the margin. `slice_margin` is the same for traffic slices with at least `slice_rows`
    rows. `max_slower` is the share by which the median latency may exceed the released bundle's, measured alternately.
    In a round, F1 on requests drawn from the traffic must not be shown to be lower by more than `traffic_margin`: the
    interval of the paired difference must reach minus the margin.
    """

    merge_max_logit_delta: Annotated[float, Field(gt=0.0)] = 1.0
    merge_label_agreement: Fraction = 0.99
    engine_label_agreement: Fraction | None = 0.99
    min_f1: Fraction | None = None
    teacher_margin: Fraction | None = None
    released_margin: Fraction | None = 0.005
    # Left out at its default, so that bundles and runs of before stay as they are.
    traffic_margin: Annotated[Fraction | None, Field(exclude_if=lambda value: value == 0.0)] = 0.0
    slice_margin: Fraction | None = None
    slice_rows: Positive = 100
    max_slower: Annotated[float, Field(ge=0.0)] | None = 0.1
    max_invalid: Fraction | None = 0.0
    max_ece: Fraction | None = None
    slo: Slo | None = None
