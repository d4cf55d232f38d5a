//! The keys for those that call a pool's workers (`ostler-serve`).

use super::section::{Section, Walk};
use super::{keys, values};
use crate::spec::{Breaker, Codel, FailureRate, QueueSpec, Recycle, ServeSpec, Sessions};

/// Reads them, each with its default.
pub(super) fn read(walk: &mut Walk, pool: &Section<'_>) -> ServeSpec {
    let defaults = ServeSpec::default();
    ServeSpec {
        concurrency: pool.read(walk, "concurrency", values::count).or(defaults.concurrency),
        queue: queue(walk, pool, defaults.queue),
        timeout: pool.read(walk, "call_timeout", values::duration).or(defaults.timeout),
        sessions: sessions(walk, pool, defaults.sessions),
        recycle: recycle(walk, pool, defaults.recycle),
        drain_timeout: pool
            .read(walk, "drain_timeout", values::duration)
            .or(defaults.drain_timeout),
        breaker: breaker(walk, pool, defaults.breaker),
        retry_budget: pool
            .table(walk, "retry", keys::RETRY)
            .ok()
            .and_then(|retry| retry.read(walk, "budget", values::fraction).ok())
            .unwrap_or(defaults.retry_budget),
        on_cancel: pool.read(walk, "on_cancel", values::on_cancel).or(defaults.on_cancel),
        poison: pool.read(walk, "poison", values::count).or(defaults.poison),
    }
}

fn queue(walk: &mut Walk, pool: &Section<'_>, defaults: QueueSpec) -> QueueSpec {
    let Some(section) = pool.table(walk, "queue", keys::QUEUE).ok() else {
        return defaults;
    };
    QueueSpec {
        max: section.read(walk, "max", values::number).or(defaults.max),
        order: section.read(walk, "order", values::queue_order).or(defaults.order),
        codel: codel(walk, &section).or(defaults.codel),
    }
}

fn codel(walk: &mut Walk, queue: &Section<'_>) -> Option<Codel> {
    let section = queue.table(walk, "codel", keys::CODEL).ok()?;
    let defaults = Codel::default();
    Some(Codel {
        target: section.read(walk, "target", values::duration).or(defaults.target),
        interval: section.read(walk, "interval", values::duration).or(defaults.interval),
    })
}

fn sessions(walk: &mut Walk, pool: &Section<'_>, defaults: Sessions) -> Sessions {
    let Some(section) = pool.table(walk, "sessions", keys::SESSIONS).ok() else {
        return defaults;
    };
    Sessions {
        affinity: section.read(walk, "affinity", values::affinity).or(defaults.affinity),
        ttl: section.read(walk, "ttl", values::duration).or(defaults.ttl),
        max: section.read(walk, "max", values::number).or(defaults.max),
    }
}

fn recycle(walk: &mut Walk, pool: &Section<'_>, defaults: Recycle) -> Recycle {
    let Some(section) = pool.table(walk, "recycle", keys::RECYCLE).ok() else {
        return defaults;
    };
    Recycle {
        age: section.read(walk, "age", values::duration).ok(),
        requests: section
            .read(walk, "requests", values::number)
            .ok()
            .map(|requests| requests as u64),
        memory: section
            .read(walk, "memory", values::size)
            .ok()
            .map(|bytes| bytes as u64),
        jitter: section.read(walk, "jitter", values::fraction).or(defaults.jitter),
        surge: section.read(walk, "surge", values::count).or(defaults.surge),
    }
}

fn breaker(walk: &mut Walk, pool: &Section<'_>, defaults: Breaker) -> Breaker {
    let Some(section) = pool.table(walk, "breaker", keys::BREAKER).ok() else {
        return defaults;
    };
    Breaker {
        failures: section.read(walk, "failures", values::count).or(defaults.failures),
        rate: rate(walk, &section),
        open: section.read(walk, "open", values::duration).or(defaults.open),
    }
}

fn rate(walk: &mut Walk, breaker: &Section<'_>) -> Option<FailureRate> {
    let section = breaker.table(walk, "rate", keys::RATE).ok()?;
    let defaults = FailureRate::default();
    Some(FailureRate {
        share: section.read(walk, "share", values::fraction).or(defaults.share),
        window: section.read(walk, "window", values::duration).or(defaults.window),
        calls: section.read(walk, "calls", values::count).or(defaults.calls),
    })
}
