//! The keys for those that call a pool's workers.

use super::super::values::{AFFINITIES, ON_CANCELS, QUEUE_ORDERS, name_of};
use super::{Entries, Value, duration, size, table};
use crate::spec::{Breaker, QueueSpec, Recycle, ServeSpec, Sessions};

pub(super) fn entries(entries: &mut Entries, serve: &ServeSpec) {
    entries.set("concurrency", serve.concurrency);
    entries.set("queue", queue(&serve.queue));
    entries.set("call_timeout", duration(serve.timeout));
    entries.set("sessions", sessions(&serve.sessions));
    entries.set("recycle", recycle(&serve.recycle));
    entries.set("drain_timeout", duration(serve.drain_timeout));
    entries.set("breaker", breaker(&serve.breaker));
    entries.set("retry", table([("budget", serve.retry_budget.into())]));
    entries.set("on_cancel", name_of(serve.on_cancel, &ON_CANCELS));
    entries.set("poison", serve.poison);
}

/// The table of the keys that have a value.
fn set<const N: usize>(entries: [(&str, Option<Value>); N]) -> Value {
    let set = entries.into_iter().filter_map(|(key, value)| Some((key, value?)));
    Value::Table(set.collect())
}

fn queue(queue: &QueueSpec) -> Value {
    let codel = queue.codel.map(|codel| {
        table([
            ("target", duration(codel.target)),
            ("interval", duration(codel.interval)),
        ])
    });
    set([
        ("max", Some(queue.max.into())),
        ("order", Some(name_of(queue.order, &QUEUE_ORDERS).into())),
        ("codel", codel),
    ])
}

fn sessions(sessions: &Sessions) -> Value {
    table([
        ("affinity", name_of(sessions.affinity, &AFFINITIES).into()),
        ("ttl", duration(sessions.ttl)),
        ("max", sessions.max.into()),
    ])
}

fn recycle(recycle: &Recycle) -> Value {
    set([
        ("age", recycle.age.map(duration)),
        ("requests", recycle.requests.map(Value::from)),
        ("memory", recycle.memory.map(|bytes| size(bytes).into())),
        ("jitter", Some(recycle.jitter.into())),
        ("surge", Some(recycle.surge.into())),
    ])
}

fn breaker(breaker: &Breaker) -> Value {
    let rate = breaker.rate.map(|rate| {
        table([
            ("share", rate.share.into()),
            ("window", duration(rate.window)),
            ("calls", rate.calls.into()),
        ])
    });
    set([
        ("failures", Some(breaker.failures.into())),
        ("open", Some(duration(breaker.open))),
        ("rate", rate),
    ])
}
