//! Events as people read them: one line each, and below a failure what the worker wrote and what to
//! do.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use ostler_core::failure::Reason;
use ostler_telemetry::{Event, EventKind, Facts};

use super::board::ports;
use super::text::{Line, Tone};

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Every change.
    All,
    /// Only what needs attention: the table shows the rest.
    Trouble,
}

/// Turns one event after another into text, and remembers what was shown.
#[derive(Debug)]
pub(crate) struct Lines {
    detail: Detail,
    /// The last stderr lines shown for each pool: a thousand workers that die of one traceback show
    /// it once.
    shown: HashMap<String, Vec<String>>,
    /// The suggestions shown for each pool.
    advised: HashSet<(String, Option<Reason>)>,
}

impl Lines {
    /// Nothing was shown yet.
    pub(crate) fn new(detail: Detail) -> Self {
        Self {
            detail,
            shown: HashMap::new(),
            advised: HashSet::new(),
        }
    }

    /// The event as lines; none when it is not worth one.
    pub(crate) fn lines(&mut self, event: &Event) -> Vec<Line> {
        let trouble = event.is_trouble();
        let Some(sentence) = sentence(event).filter(|_| trouble || self.detail == Detail::All) else {
            return Vec::new();
        };
        let tone = if trouble { Tone::Bad } else { Tone::Plain };
        let head = format!("{} {} {sentence}", clock(event.time), who(event));
        let mut lines = vec![Line::new(tone, head)];
        if trouble {
            let below = self.explanation(event).into_iter();
            lines.extend(below.map(|line| Line::plain(format!("    {line}"))));
        }
        lines
    }

    /// What happened, what the worker wrote last, what is in the way, and what to do.
    fn explanation(&mut self, event: &Event) -> Vec<String> {
        let facts = &event.facts;
        let mut lines: Vec<String> = facts.message.iter().cloned().collect();
        if let Some(holder) = facts
            .holder
            .as_ref()
            .filter(|holder| lines.iter().all(|line| !line.contains(*holder)))
        {
            lines.push(format!("held by {holder}"));
        }
        lines.extend(facts.orphans.iter().cloned());
        // A worker that gave up has failed before, and that failure was shown.
        if event.kind == EventKind::WorkerFailed {
            let pool = event.worker.as_ref().map_or("", |worker| worker.pool.as_str());
            lines.extend(self.last_words(pool, &facts.stderr_tail));
            if self.advised.insert((pool.to_owned(), facts.reason)) {
                lines.extend(facts.suggestion.iter().map(|suggestion| format!("→ {suggestion}")));
            }
        }
        lines
    }

    fn last_words(&mut self, pool: &str, tail: &[String]) -> Vec<String> {
        if tail.is_empty() {
            return Vec::new();
        }
        if self.shown.get(pool).is_some_and(|shown| shown == tail) {
            return vec!["│ (the same last lines on stderr as before)".to_owned()];
        }
        self.shown.insert(pool.to_owned(), tail.to_vec());
        tail.iter().map(|line| format!("│ {line}")).collect()
    }
}

fn sentence(event: &Event) -> Option<String> {
    let facts = &event.facts;
    let count = facts.count.unwrap_or(0);
    let sentence = match event.kind {
        EventKind::RunStarted => format!("run {} has started", event.run.short()),
        EventKind::WorkerReady => format!(
            "is ready{}",
            details([pid(facts), port(facts), socket(facts), after(facts)])
        ),
        EventKind::WorkerStopping => format!("is stopping{}", details([sent(facts), caused(facts)])),
        EventKind::WorkerExited => format!("has ended{}", details([ended(facts), pid(facts)])),
        EventKind::WorkerDraining => format!("is draining{}", details([caused(facts)])),
        EventKind::WorkerUnhealthy => "is unhealthy".to_owned(),
        EventKind::WorkerFailed => format!("has failed{}", details([reason(facts)])),
        EventKind::WorkerReleased => format!("is released{}", details([after(facts)])),
        EventKind::WorkerRestarting => format!("is restarted{}", details([delayed(facts), attempt(facts)])),
        EventKind::WorkerFinished => "has finished".to_owned(),
        EventKind::WorkerGaveUp => "has given up: its slot stays empty".to_owned(),
        EventKind::PoolReady if facts.count == Some(0) => "has no workers, and is ready".to_owned(),
        EventKind::PoolReady => "is ready: all its workers are".to_owned(),
        EventKind::PoolDegraded => "is degraded".to_owned(),
        EventKind::BreakerOpened => "refuses calls: its workers keep failing".to_owned(),
        EventKind::BreakerClosed => "takes calls again".to_owned(),
        EventKind::RunGaveUp => "the instance has given up".to_owned(),
        EventKind::PoolFinished => "has finished: all its workers have".to_owned(),
        EventKind::PoolGaveUp => "has given up".to_owned(),
        EventKind::PoolStopped => "is stopped".to_owned(),
        EventKind::GuardianLost => "the guardian is lost; another one is started, and the workers restart".to_owned(),
        EventKind::SweepDone if count > 0 => format!("ended {} of dead runs", counted(count, "process", "processes")),
        EventKind::CleanupOrphansFound => {
            let orphans = counted(count, "orphan", "orphans");
            format!("found {orphans} after the stop: this is a bug in Ostler, please report it")
        }
        EventKind::CleanupEmergencyKill => format!("killed {}", counted(count, "orphan", "orphans")),
        // The rest is not worth a line.
        _ => return None,
    };
    Some(sentence)
}

/// A number and what it counts.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn who(event: &Event) -> String {
    match (&event.worker, &event.pool) {
        (Some(worker), _) => worker.to_string(),
        (None, Some(pool)) => format!("pool {pool}"),
        (None, None) => event.app.clone(),
    }
}

/// The time of day, UTC, to the millisecond.
fn clock(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_millis(time).to_string();
    text.get(11..23).unwrap_or_default().to_owned()
}

fn details<const N: usize>(parts: [Option<String>; N]) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(": {}", parts.join(", "))
    }
}

fn pid(facts: &Facts) -> Option<String> {
    facts.pid.map(|pid| format!("pid {pid}"))
}

fn socket(facts: &Facts) -> Option<String> {
    let named = facts.sockets.iter().map(|(name, path)| format!("{name} {path}"));
    let all: Vec<String> = facts.socket.iter().cloned().chain(named).collect();
    (!all.is_empty()).then(|| format!("socket {}", all.join(", ")))
}

fn port(facts: &Facts) -> Option<String> {
    ports(facts).map(|ports| format!("port {ports}"))
}

fn after(facts: &Facts) -> Option<String> {
    facts.elapsed.map(|elapsed| format!("after {}", rounded(elapsed)))
}

/// A worker that is stopped before it has a process gets no signal.
fn sent(facts: &Facts) -> Option<String> {
    facts.pid?;
    facts.signal.map(|signal| format!("sent {signal}"))
}

fn caused(facts: &Facts) -> Option<String> {
    facts
        .cause
        .map(|cause| format!("because of {}", cause.name().replace('_', " ")))
}

fn ended(facts: &Facts) -> Option<String> {
    facts.exit.map(|exit| exit.to_string())
}

fn reason(facts: &Facts) -> Option<String> {
    facts.reason.map(|reason| reason.to_string())
}

fn delayed(facts: &Facts) -> Option<String> {
    facts
        .delay
        .filter(|delay| !delay.is_zero())
        .map(|delay| format!("in {}", rounded(delay)))
}

fn attempt(facts: &Facts) -> Option<String> {
    facts.attempt.map(|attempt| format!("attempt {attempt}"))
}

/// A duration that people compare: milliseconds below ten seconds, seconds above.
pub(crate) fn rounded(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use ostler_core::failure::{ExitStatus, Failure};
    use ostler_core::ids::{Incarnation, RunId, WorkerId};
    use ostler_core::lifecycle::Cause;
    use ostler_core::signal::Signal;

    use super::*;

    fn event(kind: EventKind, facts: Facts) -> Event {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(3_723_004);
        let mut event = Event::new(1, time, kind, "demo", RunId::from_u128(1));
        event.worker = Some(WorkerId::new("web", 0));
        event.incarnation = Some(Incarnation::FIRST);
        event.facts = facts;
        event
    }

    fn joined(lines: &[Line]) -> Option<String> {
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    fn text(event: &Event, detail: Detail) -> Option<String> {
        joined(&Lines::new(detail).lines(event))
    }

    fn failure() -> Event {
        let mut failure = Failure::new(
            Reason::ExitedBeforeReady,
            "it ended with exit status 0 before it was ready",
        );
        failure.stderr_tail = vec!["Traceback:".into(), "ModuleNotFoundError: no module".into()];
        event(EventKind::WorkerFailed, Facts::of_failure(&failure))
    }

    #[test]
    fn a_failure_says_what_happened_and_what_to_do() {
        let shown = text(&failure(), Detail::Trouble).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "01:02:03.004 web/0 has failed: exited_before_ready",
                "    it ended with exit status 0 before it was ready",
                "    │ Traceback:",
                "    │ ModuleNotFoundError: no module",
            ]
        );
        assert!(lines[4].starts_with("    → read its last lines"), "{shown}");
    }

    #[test]
    fn a_worker_without_a_process_gets_no_signal() {
        let stopping = |pid: Option<u32>| {
            let facts = Facts::default()
                .with_pid(pid)
                .with_signal(Signal::TERM)
                .with_cause(Cause::InstanceStop);
            text(&event(EventKind::WorkerStopping, facts), Detail::All).expect("a line")
        };
        assert!(stopping(Some(7)).contains("is stopping: sent TERM, because of instance stop"));
        assert!(stopping(None).contains("is stopping: because of instance stop"));
    }

    #[test]
    fn the_same_last_words_are_shown_once() {
        let mut lines = Lines::new(Detail::Trouble);
        assert!(
            joined(&lines.lines(&failure()))
                .unwrap()
                .contains("│ ModuleNotFoundError")
        );
        let again = joined(&lines.lines(&failure())).unwrap();
        assert!(
            !again.contains("ModuleNotFoundError") && again.contains("the same last lines"),
            "{again}"
        );
        let mut other = failure();
        other.facts.stderr_tail = vec!["something else".into()];
        assert!(joined(&lines.lines(&other)).unwrap().contains("│ something else"));
    }

    #[test]
    fn ordinary_changes_are_shown_in_plain_lines_only() {
        let facts = Facts::default()
            .with_pid(7)
            .with_port(80)
            .with_elapsed(Duration::from_millis(12));
        let ready = event(EventKind::WorkerReady, facts);
        assert_eq!(
            text(&ready, Detail::All).unwrap(),
            "01:02:03.004 web/0 is ready: pid 7, port 80, after 12 ms"
        );
        assert_eq!(text(&ready, Detail::Trouble), None);
        let empty = event(EventKind::PoolReady, Facts::default().with_count(0));
        let shown = text(&empty, Detail::All).unwrap();
        assert!(shown.ends_with("has no workers, and is ready"), "{shown}");
        let facts = Facts::default().with_exit(ExitStatus::Signal(Signal::KILL));
        assert_eq!(
            text(&event(EventKind::WorkerExited, facts), Detail::All).unwrap(),
            "01:02:03.004 web/0 has ended: signal KILL"
        );
    }

    #[test]
    fn every_kind_of_event_has_a_line_or_none() {
        for kind in EventKind::ALL {
            let shown = text(&event(*kind, Facts::default()), Detail::All);
            assert!(shown.is_none_or(|shown| !shown.contains('\n')), "{}", kind.name());
        }
    }
}
