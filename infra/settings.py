"""Every setting of Daybook, with its default: read once from the environment, then frozen.

A setting `port` is the variable `DAYBOOK_PORT`. Invariant: no other module reads the environment,
so that this page (and `daybook settings`) is the whole list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger.backlog import held_back_types
from ledger.business_types import load_business_types
from ledger.errors import UnknownName

KIB = 1024
MIB = 1024 * KIB


def names_of(listed: str) -> list[str]:
    """Read a list of names that commas separate."""
    return [name.strip() for name in listed.split(",") if name.strip()]


class Settings(BaseSettings):
    """The settings in use; the descriptions are the documentation."""

    model_config = SettingsConfigDict(
        env_prefix="DAYBOOK_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    home: Path = Field(
        Path(".daybook"),
        description="Folder of everything that is made here: embedded database, keys, broker.",
    )
    database_url: str | None = Field(
        None,
        description="PostgreSQL 15 or newer by URL; unset: the embedded PostgreSQL 18 in home.",
    )
    pool_size_max: int = Field(
        16, ge=2, le=500, description="Connections of one API process for its reads."
    )
    lock_timeout_s: float = Field(
        10, gt=0, description="How long a statement waits for a lock before it gives up."
    )
    statement_timeout_s: float = Field(
        60, gt=0, description="How long one statement of a posting or a read may take."
    )

    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8480, ge=1, le=65535, description="Port the API listens on.")
    book: str = Field(
        "main",
        min_length=1,
        max_length=64,
        description="The book that is meant when none is named.",
    )
    url: str | None = Field(
        None,
        description="API the commands talk to; unset: the one on this machine's host and port.",
    )
    key: SecretStr | None = Field(
        None, description="API key the commands send; unset: this machine's own, in home."
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="API processes of one `daybook serve`; those with one home and database share "
        "one engine.",
    )
    shared_data: Path = Field(
        Path("../shared/data"),
        description="Folder of the bank data sets that the import's acceptance reads.",
    )

    batch_size_max: int = Field(
        8_000, ge=1, le=50_000, description="Operations committed together at most."
    )
    queue_size_max: int = Field(
        100_000, ge=1, description="Operations waiting for a batch before callers get a 503."
    )
    queue_wait_ms_max: float = Field(
        50,
        ge=0,
        le=60_000,
        description="In an overload as many requests are let in as are answered in this time; "
        "others get a 503, but for what returns money. 0: all are let in.",
    )
    queue_requests_free: int = Field(
        320,
        ge=1,
        description="Single requests and batches at once in one API process below which nobody "
        "gets a 503 for the wait.",
    )
    operations_per_request_max: int = Field(
        10_000, ge=1, le=100_000, description="Operations in one request to operations:batch."
    )
    body_bytes_max: int = Field(
        32 * MIB, ge=KIB, description="Size of a request body above which it is refused unread."
    )
    operation_bytes_max: int = Field(
        256 * KIB, ge=KIB, description="Encoded size of one booked operation on the bus."
    )
    request_timeout_s: float = Field(
        30, gt=0, description="How long a caller waits for its batch before a 503 (unknown result)."
    )
    reading_timeout_s: float = Field(
        15,
        gt=0,
        description="How long the head, and then the body, of a request may take to arrive.",
    )
    drain_timeout_s: float = Field(
        20, gt=0, description="How long a stopping process finishes what it has accepted."
    )
    drain_notice_s: float = Field(
        0,
        ge=0,
        le=300,
        description="How long a stopping API process says that it is not ready and still answers, "
        "so that a balancer turns away from it first.",
    )
    clock_jump_s_max: float = Field(
        300, gt=0, description="Forward jump of the clock that stops the engine instead of booking."
    )
    hold_sweep_s: float = Field(
        1, gt=0, description="Pause between two looks for holds whose expiry has passed."
    )

    day_opens_at: str | None = Field(
        None,
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description="Time of day, HH:MM, at which the schedule opens the next business date; "
        "unset: days are opened by command only.",
    )
    day_timezone: str = Field("UTC", description="Time zone of day_opens_at, e.g. Asia/Shanghai.")
    day_books: str = Field(
        "", description="Books that the schedule moves, separated by commas; empty: the one in use."
    )
    day_look_s: float = Field(
        5, gt=0, le=3_600, description="Pause between two looks whether a business date is due."
    )

    bus: Literal["log", "kafka"] = Field(
        "log", description="What carries operations to accounting: the log itself, or Kafka."
    )
    kafka_bootstrap: str = Field(
        "127.0.0.1:9092", description="Kafka brokers, host:port separated by commas."
    )
    kafka_partitions: int = Field(
        4, ge=1, le=1_000, description="Partitions of the operations topic; fixed once created."
    )
    kafka_replication: int = Field(
        1, ge=1, le=9, description="Replicas of each topic's partitions; 3 in production."
    )
    kafka_image: str = Field(
        "apache/kafka:4.1.1", description="Image of the broker that `make kafka` runs in Docker."
    )
    operations_topic: str = Field(
        "ledger.operations", description="Topic of booked operations and accounting decisions."
    )
    results_topic: str = Field(
        "accounting.results", description="Topic of accounting statuses back to the ledger."
    )
    sweep_interval_s: float = Field(
        300,
        ge=0,
        le=86_400,
        description="Seconds between two completeness sweeps of `daybook serve`; 0: none.",
    )
    sweep_full_every_s: float = Field(
        86_400,
        ge=60,
        description="Seconds until a scheduled sweep reads the whole log again, not only the new.",
    )
    silence_s: float = Field(
        15,
        ge=6,
        description="A relay or consumer silent for so long loses its locks and partitions.",
    )
    consumer_group: str = Field("daybook.vouchers", description="Kafka group of the consumers.")
    message_bytes_max: int = Field(
        512 * KIB, ge=KIB, description="Size of one message; it carries many operations."
    )
    relay_poll_rows: int = Field(
        10_000, ge=1, description="Rows of the log the relay reads at once."
    )
    consumer_poll_operations: int = Field(
        2_000, ge=1, description="Operations a consumer handles in one transaction."
    )
    poll_pause_s: float = Field(
        0.02, gt=0, description="Pause of relay and consumers when there is nothing to do."
    )
    retry_pause_s_max: float = Field(
        5, gt=0, description="Longest pause between two tries after a failure of infrastructure."
    )

    backlog_operations_soft: int = Field(
        50_000,
        ge=0,
        description="Operations not in the books above which there is an alarm; 0: no.",
    )
    backlog_operations_hard: int = Field(
        1_000_000,
        ge=0,
        description="Operations not in the books above which the API pushes back; 0: never.",
    )
    backlog_seconds_soft: float = Field(
        60,
        ge=0,
        description="Age of what is not in the books above which there is an alarm; 0: no.",
    )
    backlog_seconds_hard: float = Field(
        0,
        ge=0,
        description="Age of what is not in the books above which the API pushes back; 0: never.",
    )
    backlog_types: str = Field(
        "*",
        description="Business types that get 503 above a hard limit, separated by commas; "
        "*: all that do not return money. One that returns money cannot be named.",
    )
    backlog_look_s: float = Field(
        1, gt=0, le=60, description="Pause between two looks of an API process at the backlog."
    )
    metrics_host: str = Field("127.0.0.1", description="Address the metrics ports listen on.")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_000,
        description="Port for the metrics of this process, without a key; 0: none. `daybook serve` "
        "gives its processes the ports from it on: consumer, relay +1, results +2, sweep +3, "
        "APIs +10 …",
    )

    otlp_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP collector for traces, e.g. http://127.0.0.1:4318; unset: no traces. "
        "Needs the extra daybook[tracing].",
    )
    trace_share: float = Field(
        1, ge=0, le=1, description="Share of operations that are traced, the same everywhere."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least level of log lines that are written."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Log lines for people, or one JSON object a line."
    )

    @field_validator("backlog_types")
    @classmethod
    def _can_be_held_back(cls, value: str) -> str:
        """Every process would end by it: said once, before any is started."""
        try:
            held_back_types(load_business_types(), names_of(value))
        except UnknownName as error:
            raise ValueError(error.detail) from error
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> Settings:
        """An operation must fit a message, or the relay would stop at it for ever.

        And a backlog must reach its soft limit first, or nobody is warned.
        """
        if self.operation_bytes_max * 2 > self.message_bytes_max:
            msg = "message_bytes_max must be at least twice operation_bytes_max"
            raise ValueError(msg)
        for soft, hard in (
            (self.backlog_operations_soft, self.backlog_operations_hard),
            (self.backlog_seconds_soft, self.backlog_seconds_hard),
        ):
            if 0 < hard < soft:
                msg = "a hard limit of the backlog must not be below the soft one"
                raise ValueError(msg)
        return self

    @property
    def postgres_dir(self) -> Path:
        """Data directory of the embedded PostgreSQL."""
        return self.home / "postgres"

    @property
    def kafka_dir(self) -> Path:
        """Folder of the broker that `make kafka` starts."""
        return self.home / "kafka"

    @property
    def key_path(self) -> Path:
        """The file of this machine's own key, made at the first start, mode 0600."""
        return self.home / "local.key"

    @property
    def api_url(self) -> str:
        """Where the commands reach the API."""
        if self.url is not None:
            return self.url.rstrip("/")
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104
        return f"http://{host}:{self.port}"


def load_settings() -> Settings:
    """Read the environment; a wrong value raises pydantic's ValidationError naming the setting."""
    return Settings()


def with_overrides(settings: Settings, **overrides: object) -> Settings:
    """Return the settings with other values on top; None means not given."""
    given = {name: value for name, value in overrides.items() if value is not None}
    if not given:
        return settings
    return Settings(**{**settings.model_dump(exclude_unset=True), **given})
