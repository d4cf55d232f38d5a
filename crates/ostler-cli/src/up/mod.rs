//! `ostler up`: the pools of a file, from their start to their end.
//!
//! One task keeps the instance ([`keeper`]); this one listens to its events, to signals and to the
//! clock, and is never held up by anything, so that a second signal is answered at once.

mod gathered;
mod keeper;
mod reporter;
mod signals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler::otlp::{FLUSH_LIMIT, Settings, SettingsError, Telemetry};
use ostler::{EventItem, EventStream, Killer, Ostler, OstlerBuilder, StopReport};
use ostler_core::chain::chain;
use ostler_core::spec::PoolSpec;
use ostler_telemetry::EventKind;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::cli::UpArgs;
use crate::config::{self, Config};
use crate::exit::{Exit, Failed};
use crate::output::log;
use crate::output::screen::Screen;
use crate::python;
use crate::signals::{Inherited, Meaning};
use crate::threads;
use gathered::Gathered;
use keeper::{End, Keeper};
use reporter::Reporter;
use signals::Signals;

/// The table is drawn at most so often.
const REDRAW: Duration = Duration::from_millis(200);

/// How long the reader of the events has at the end to take the last ones.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The same for the reader of stderr.
const FINAL_READ: Duration = Duration::from_secs(1);

/// Every event was emitted before the report; reading the last ones takes no longer than this.
const LAST_EVENTS: Duration = Duration::from_millis(500);

/// Runs the pools of the file until their end, a signal, or the end of `--for`.
pub(crate) fn run(args: &UpArgs, inherited: &Inherited) -> Result<Exit, Failed> {
    let mut config = config::load(&args.file).map_err(Failed::mistakes)?;
    // Before the first thread is started.
    let shortage = prepare_descriptors(&config.pools);
    threads::require()?;
    let journal = reporter::open_journal(args.events.as_deref()).map_err(Failed::machine)?;
    let screen = Screen::new(!args.no_table && !reporter::events_on_terminal(args.events.as_deref()))
        .map(Arc::new)
        .map_err(|error| Failed::machine(format!("no thread can be started: {error}")))?;
    let telemetry = start_telemetry(&config).map_err(Failed::wrong)?;
    log::start(&args.log, Arc::clone(&screen), telemetry.as_ref()).map_err(Failed::wrong)?;
    python::prepare(&mut config, &mut |line| screen.say(line)).map_err(Failed::machine)?;
    if let Some(shortage) = shortage {
        tracing::warn!("{shortage}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::machine(format!("the runtime can't be started: {error}")))?;
    let mut reporter = Reporter::new(Arc::clone(&screen), journal);
    let outcome = runtime.block_on(drive(config, args.time, telemetry.clone(), inherited, &mut reporter));
    if let Some(undelivered) = telemetry.map(|telemetry| telemetry.shutdown(FLUSH_LIMIT))
        && !undelivered.is_empty()
    {
        screen.say(&format!("ostler: telemetry that was not delivered: {undelivered}"));
    }
    reporter.finish(Instant::now() + LAST_LINES);
    if let Err(failed) = &outcome {
        screen.say_all(failed.lines());
    }
    screen.finish(Instant::now() + FINAL_READ);
    runtime.shutdown_background();
    Ok(outcome.unwrap_or_else(|failed| failed.exit()))
}

/// On when the file has the section, or a variable names a receiver.
fn start_telemetry(config: &Config) -> Result<Option<Telemetry>, SettingsError> {
    let mut settings = match &config.telemetry {
        Some(settings) => settings.clone(),
        None if Settings::receiver_in_environment() => Settings::default(),
        None => return Ok(None),
    };
    settings.service_name.get_or_insert_with(|| config.app.name.clone());
    Telemetry::start(&settings)
}

/// Raises the limit on descriptors, and makes room for those of the workers. Returns what is short.
fn prepare_descriptors(pools: &[PoolSpec]) -> Option<String> {
    let workers: u64 = pools.iter().map(|pool| u64::from(pool.workers)).sum();
    let needed = workers * ostler::limits::DESCRIPTORS_PER_WORKER;
    match ostler::limits::raise_descriptors() {
        Ok((limit, _)) if limit < needed => Some(format!(
            "{workers} workers need about {needed} descriptors, and the limit is {limit}: raise it (ulimit -Hn, LimitNOFILE)"
        )),
        Ok(_) => {
            // Without it, the table grows with the workers.
            let _ = ostler::limits::reserve_for_workers(workers);
            None
        }
        Err(error) => Some(format!("the limit on open files can't be raised: {error}")),
    }
}

async fn drive(
    config: Config,
    time: Option<Duration>,
    telemetry: Option<Telemetry>,
    inherited: &Inherited,
    reporter: &mut Reporter,
) -> Result<Exit, Failed> {
    let mut signals =
        Signals::new(inherited).map_err(|error| Failed::machine(format!("signals can't be received: {error}")))?;
    let mut builder = Ostler::builder(&config.app.name)
        .store(config.app.store)
        .audit(config.app.audit);
    if let Some(dir) = &config.app.state_dir {
        builder = builder.state_dir(dir);
    }
    if let Some(telemetry) = telemetry {
        builder = builder.observer(telemetry);
    }
    let begun = Instant::now();
    let run = builder.run_id();
    let mut events = Gathered::new(builder.subscribe());
    let (ostler, stop_at_once) = start(builder, &mut signals, reporter).await?;
    let swept = ostler.swept();
    for remark in swept.survivors.iter().chain(&swept.remarks) {
        reporter.say(&format!("ostler: the sweep: {remark}"));
    }
    let killer = ostler.killer();
    let keeper = Keeper::new(ostler, config.pools);
    if stop_at_once {
        keeper.stop();
    }
    let end = follow(keeper, killer, &mut events, &mut signals, time, reporter).await;
    drain(events.into_inner(), reporter).await;
    let exit = status(&end, reporter);
    reporter.summarise(&config.app.name, &run.short(), begun.elapsed());
    Ok(exit)
}

/// Starts the instance. A signal meanwhile is remembered: an instance that is up can be stopped in
/// order, and only a disk that stalls delays the start for long. A second one ends the program; the
/// guardian then ends what there is.
async fn start(
    builder: OstlerBuilder,
    signals: &mut Signals,
    reporter: &mut Reporter,
) -> Result<(Ostler, bool), Failed> {
    let mut start = std::pin::pin!(builder.start());
    let mut stopping = false;
    loop {
        tokio::select! {
            started = &mut start => return started.map(|ostler| (ostler, stopping)).map_err(Failed::error),
            (_, meaning) = signals.next() => match meaning {
                Meaning::Stop if stopping => return Err(Failed::machine("interrupted during the start")),
                Meaning::Stop | Meaning::StopOnce => stopping = true,
                Meaning::Reopen => reporter.reopen(),
                Meaning::Ignored | Meaning::Default => {}
            }
        }
    }
}

/// Listens until the instance has ended.
async fn follow(
    mut keeper: Keeper,
    killer: Killer,
    events: &mut Gathered<EventStream>,
    signals: &mut Signals,
    time: Option<Duration>,
    reporter: &mut Reporter,
) -> End {
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut time_is_up = std::pin::pin!(sleep(time.unwrap_or(Duration::MAX)));
    let mut listening = true;
    loop {
        tokio::select! {
            end = keeper.ended() => return end,
            batch = events.next(), if listening => match batch {
                Some(batch) => batch.into_iter().for_each(|item| reporter.take(item)),
                None => listening = false,
            },
            (name, meaning) = signals.next() => match meaning {
                Meaning::Stop | Meaning::StopOnce if keeper.stop() => {
                    reporter.say(&format!("{name}: stopping; a second signal kills"));
                }
                Meaning::Stop => {
                    reporter.say(&format!("{name}: killing"));
                    killer.kill();
                }
                Meaning::Reopen => reporter.reopen(),
                Meaning::StopOnce | Meaning::Ignored | Meaning::Default => {}
            },
            () = &mut time_is_up, if time.is_some() && !keeper.is_stopping() => {
                keeper.stop();
                signals.note_stop();
            }
            _ = redraw.tick() => reporter.refresh(),
        }
    }
}

/// The events that were emitted before the report.
async fn drain(mut events: EventStream, reporter: &mut Reporter) {
    while let Ok(Some(item)) = timeout(LAST_EVENTS, events.recv()).await {
        let is_last = matches!(&item, EventItem::Event(event) if event.kind == EventKind::RunStopped);
        reporter.take(item);
        if is_last {
            break;
        }
    }
}

fn status(end: &End, reporter: &Reporter) -> Exit {
    if let Some(error) = &end.error {
        reporter.say(&format!("ostler: {error}"));
        return Exit::Machine;
    }
    status_of(&end.report, |trouble| reporter.say(trouble))
}

/// What the report means for the exit status; what is not clean is said.
fn status_of(report: &StopReport, say: impl Fn(&str)) -> Exit {
    for what in &report.unreleased {
        say(&format!("ostler: not released: {what}"));
    }
    for what in &report.survivors {
        say(&format!("ostler: it could not be killed: {what}"));
    }
    for what in &report.unseen {
        say(&format!("ostler: whether anything is left can't be said: {what}"));
    }
    if let Some(why) = &report.root_gave_up {
        say(&format!("ostler: the instance gave up: {}", chain(why)));
    }
    if !report.is_clean() || report.root_gave_up.is_some() {
        Exit::Machine
    } else if report.is_success() {
        Exit::Clean
    } else {
        Exit::Trouble
    }
}

#[cfg(test)]
mod tests {
    use ostler::supervisor::ExitReason;
    use ostler::{RunGaveUp, Unreleased, WorkerId};

    use super::*;

    #[test]
    fn the_status_says_how_it_ended() {
        fn some() -> Vec<String> {
            vec!["web".to_owned()]
        }
        let status = |spoil: fn(&mut StopReport)| {
            let mut report = StopReport::default();
            spoil(&mut report);
            status_of(&report, |_| {})
        };
        assert_eq!(status(|_| {}), Exit::Clean);
        assert_eq!(status(|report| report.gave_up = some()), Exit::Trouble);
        assert_eq!(status(|report| report.orphans = some()), Exit::Trouble);
        assert_eq!(status(|report| report.survivors = some()), Exit::Machine);
        assert_eq!(status(|report| report.unseen = some()), Exit::Machine);
        let unreleased = |report: &mut StopReport| {
            report.gave_up = some();
            report.unreleased = vec![Unreleased::new(WorkerId::new("web", 0), None)];
        };
        assert_eq!(status(unreleased), Exit::Machine);
        let gave_up = |report: &mut StopReport| {
            report.root_gave_up = Some(RunGaveUp::new("guardian", ExitReason::Killed));
        };
        assert_eq!(status(gave_up), Exit::Machine);
    }
}
