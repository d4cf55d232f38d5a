//! The keys for those that call a pool's workers, as TOML.

use ostler_core::spec::{Breaker, QueueSpec, Recycle, ServeSpec, Sessions};
use toml::{Table, Value};

use super::super::values::{AFFINITIES, ON_CANCELS, QUEUE_ORDERS, name_of};
use super::{Page, duration, size, table};

pub(super) fn show(page: &mut Page, serve: &ServeSpec) {
    page.comment("for programs that call the workers (ostler-serve)");
    page.set("concurrency", serve.concurrency);
    page.set("queue", queue(&serve.queue));
    page.set("call_timeout", duration(serve.timeout));
    page.set("sessions", sessions(&serve.sessions));
    page.set("recycle", recycle(&serve.recycle));
    page.set("drain_timeout", duration(serve.drain_timeout));
    page.set("breaker", breaker(&serve.breaker));
    page.set("retry", table([("budget", serve.retry_budget.into())]));
    page.set("on_cancel", name_of(serve.on_cancel, &ON_CANCELS));
    page.set("poison", serve.poison);
}

fn queue(queue: &QueueSpec) -> Table {
    let mut shown = Table::new();
    shown.insert("max".to_owned(), number(queue.max));
    shown.insert("order".to_owned(), name_of(queue.order, &QUEUE_ORDERS).into());
    if let Some(codel) = queue.codel {
        let codel = table([
            ("target", duration(codel.target)),
            ("interval", duration(codel.interval)),
        ]);
        shown.insert("codel".to_owned(), codel);
    }
    shown
}

fn sessions(sessions: &Sessions) -> Value {
    table([
        ("affinity", name_of(sessions.affinity, &AFFINITIES).into()),
        ("ttl", duration(sessions.ttl)),
        ("max", number(sessions.max)),
    ])
}

fn recycle(recycle: &Recycle) -> Table {
    let mut shown = Table::new();
    if let Some(age) = recycle.age {
        shown.insert("age".to_owned(), duration(age));
    }
    if let Some(requests) = recycle.requests {
        shown.insert("requests".to_owned(), number(requests));
    }
    if let Some(memory) = recycle.memory {
        shown.insert("memory".to_owned(), size(memory).into());
    }
    shown.insert("jitter".to_owned(), recycle.jitter.into());
    shown.insert("surge".to_owned(), recycle.surge.into());
    shown
}

fn breaker(breaker: &Breaker) -> Table {
    let mut shown = Table::new();
    shown.insert("failures".to_owned(), breaker.failures.into());
    shown.insert("open".to_owned(), duration(breaker.open));
    if let Some(rate) = breaker.rate {
        let rate = table([
            ("share", rate.share.into()),
            ("window", duration(rate.window)),
            ("calls", rate.calls.into()),
        ]);
        shown.insert("rate".to_owned(), rate);
    }
    shown
}

/// TOML's integers are signed.
fn number(number: impl TryInto<i64>) -> Value {
    number.try_into().unwrap_or(i64::MAX).into()
}
