//! Every key of a pool, table by table. Unknown keys are compared with these, and so is
//! `docs/configuration.md`.

/// The keys of one table.
pub type Keys = &'static [&'static str];

/// A pool.
pub const POOL: Keys = &[
    "command",
    "python",
    "interpreter",
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
/// `backoff`.
pub const BACKOFF: Keys = &["first", "max", "jitter"];
/// `ready`.
pub const READY: Keys = &[
    "notify", "http", "grpc", "tcp", "exec", "line", "file", "after", "port", "owner", "headers",
];
/// `health`.
pub const HEALTH: Keys = &[
    "http", "grpc", "tcp", "exec", "port", "owner", "headers", "every", "timeout", "misses",
];
/// `stop` and `host_death`.
pub const STOP: Keys = &["signal", "grace"];
/// `queue`.
pub const QUEUE: Keys = &["max", "order", "codel"];
/// `queue.codel`.
pub const CODEL: Keys = &["target", "interval"];
/// `sessions`.
pub const SESSIONS: Keys = &["affinity", "ttl", "max"];
/// `recycle`.
pub const RECYCLE: Keys = &["age", "requests", "memory", "jitter", "surge"];
/// `breaker`.
pub const BREAKER: Keys = &["failures", "rate", "open"];
/// `breaker.rate`.
pub const RATE: Keys = &["share", "window", "calls"];
/// `retry`.
pub const RETRY: Keys = &["budget"];
/// `output`.
pub const OUTPUT: Keys = &["ring", "log"];

/// The keys of a pool of Python workers, which `ostler-python` sets up.
pub const PYTHON: Keys = &["python", "interpreter", "venv", "requirements", "devices", "cpus"];
