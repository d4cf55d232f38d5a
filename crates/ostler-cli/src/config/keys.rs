//! Every key of the file, table by table. Unknown keys are compared with these, and so is
//! `docs/configuration.md`.

/// The keys of one table.
pub(super) type Keys = &'static [&'static str];

pub(super) const ROOT: Keys = &["app", "pool", "telemetry"];
pub(super) const APP: Keys = &["name", "state_dir", "store", "audit"];
pub(super) const TELEMETRY: Keys = &["otlp", "protocol", "headers", "sampling", "service_name"];
pub(super) const POOL: Keys = &[
    "command",
    "python",
    "venv",
    "requirements",
    "devices",
    "cpus",
    "cwd",
    "env",
    "inherit_env",
    "workers",
    "min_workers",
    "max_starting",
    "restart",
    "intensity",
    "period",
    "on_give_up",
    "backoff",
    "min_uptime",
    "port",
    "ports",
    "address",
    "ready",
    "start_timeout",
    "health",
    "watchdog",
    "stop",
    "host_death",
    "release_timeout",
    "output",
    "mode",
    "stdin",
    "concurrency",
    "queue",
    "call_timeout",
    "sessions",
    "recycle",
    "drain_timeout",
    "breaker",
    "retry",
    "on_cancel",
    "poison",
];
pub(super) const BACKOFF: Keys = &["first", "max", "jitter"];
pub(super) const READY: Keys = &[
    "notify", "http", "grpc", "tcp", "exec", "line", "file", "after", "port", "owner", "headers",
];
pub(super) const HEALTH: Keys = &[
    "http", "grpc", "tcp", "exec", "port", "owner", "headers", "every", "timeout", "misses",
];
pub(super) const STOP: Keys = &["signal", "grace"];
pub(super) const QUEUE: Keys = &["max", "order", "codel"];
pub(super) const CODEL: Keys = &["target", "interval"];
pub(super) const SESSIONS: Keys = &["affinity", "ttl", "max"];
pub(super) const RECYCLE: Keys = &["age", "requests", "memory", "jitter", "surge"];
pub(super) const BREAKER: Keys = &["failures", "rate", "open"];
pub(super) const RATE: Keys = &["share", "window", "calls"];
pub(super) const RETRY: Keys = &["budget"];
pub(super) const OUTPUT: Keys = &["ring", "log"];
