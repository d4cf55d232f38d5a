//! Runs a history under our supervisors, with real actors. Tokio's clock is paused: it only
//! advances when every task waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ostler_supervisor::{
    ChildSpec, ChildStart, ChildStatus, DeleteChildError, End, Exit, ExitReason, Ignore, Report, RestartChildError,
    Shutdown, StartChildError, Supervisor, SupervisorError, SupervisorOptions, TerminateChildError,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};

use crate::erlang::in_order;
use crate::history::{Body, Flags, History, Kind, Plan, Script, Step};

/// The state shared by the actors of a history.
#[derive(Default)]
struct Shared {
    trace: Vec<String>,
    starts: HashMap<String, usize>,
    actors: HashMap<String, ActorCell>,
}

#[derive(Clone, Default)]
struct World(Arc<Mutex<Shared>>);

impl World {
    fn say(&self, line: impl Into<String>) {
        self.0.lock().unwrap().trace.push(line.into());
    }

    fn actor(&self, child: &str) -> Option<ActorCell> {
        self.0.lock().unwrap().actors.get(child).cloned()
    }

    fn outcome(&self, child: &str, script: &Script) -> &'static str {
        let mut shared = self.0.lock().unwrap();
        let nth = shared.starts.entry(child.to_owned()).or_default();
        *nth += 1;
        script.starts.get(*nth - 1).copied().unwrap_or("up")
    }
}

/// A worker that ends as its script says when it is stopped.
struct Worker {
    world: World,
    id: String,
    script: Script,
}

struct Die(&'static str);

#[cfg(feature = "cluster")]
impl ractor::Message for Die {}

impl Actor for Worker {
    type Msg = Die;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Die>, (): ()) -> Result<(), ActorProcessingErr> {
        let outcome = self.world.outcome(&self.id, &self.script);
        self.world.say(format!("start {} {outcome}", self.id));
        match outcome {
            "ignore" => Err(Ignore.into()),
            "fail" => Err("no_start".into()),
            _ => {
                self.world
                    .0
                    .lock()
                    .unwrap()
                    .actors
                    .insert(self.id.clone(), myself.get_cell());
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<Die>, (): &mut ()) -> Result<(), ActorProcessingErr> {
        if self.script.on_stop == "never" {
            return std::future::pending().await;
        }
        self.world.say(format!("stop {}", self.id));
        match self.script.on_stop {
            "normal" => Err(Exit::from(ExitReason::Normal).into()),
            "crash" => Err("crash".into()),
            _ => Ok(()),
        }
    }

    async fn handle(&self, _: ActorRef<Die>, Die(reason): Die, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let reason = match reason {
            "normal" => ExitReason::Normal,
            "shutdown" => ExitReason::SHUTDOWN,
            "shutdown_done" => ExitReason::Shutdown(Some("done".into())),
            reason => ExitReason::failed(reason),
        };
        Err(Exit::from(reason).into())
    }
}

pub(crate) fn run(history: &History) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let trace = runtime.block_on(play(history));
    in_order(history, trace)
}

async fn play(history: &History) -> Vec<String> {
    let world = World::default();
    let children = history.children.iter().map(|plan| spec(&world, plan)).collect();
    match Supervisor::spawn(None, options(&world, &history.flags), children).await {
        Ok(top) => {
            world.say("ready");
            run_steps(&world, history, &top).await;
        }
        Err(SupervisorError::Child { child, .. }) => world.say(format!("init failed {}", child.id)),
        Err(error) => panic!("{error}"),
    }
    std::mem::take(&mut world.0.lock().unwrap().trace)
}

async fn run_steps(world: &World, history: &History, top: &Supervisor) {
    look(world, top).await;
    for step in &history.steps {
        if let Step::Stop = step {
            break;
        }
        if let Some(said) = take(world, history, top, step).await {
            settle(top).await;
            world.say(said);
        }
        if settle(top).await.is_none() {
            return world.say(end(&top.wait().await));
        }
        look(world, top).await;
    }
    let ended = top.stop().await;
    world.say("stop");
    world.say(end(&ended));
}

fn end(end: &Option<End>) -> String {
    format!("end {}", reason(&end.as_ref().expect("not killed").exit_reason()))
}

fn options(world: &World, flags: &Flags) -> SupervisorOptions {
    let world = world.clone();
    SupervisorOptions::new()
        .strategy(flags.strategy)
        .intensity(flags.intensity, Duration::from_secs(flags.period))
        .auto_shutdown(flags.auto_shutdown)
        .reporter(move |report| match &report {
            Report::RestartScheduled { .. } => {}
            Report::Progress { .. } | Report::ReachedMaxRestartIntensity { .. } => {
                world.say(format!("{} {}", report.name(), report.child().id));
            }
            _ => {
                let because = reason(report.reason().expect("report with a reason"));
                world.say(format!("{} {} {because}", report.name(), report.child().id));
            }
        })
}

fn reason(reason: &ExitReason) -> String {
    match reason {
        ExitReason::Normal => "normal".into(),
        ExitReason::Killed => "killed".into(),
        ExitReason::Shutdown(None) => "shutdown".into(),
        ExitReason::Shutdown(Some(why)) if why.contains("did not start") => "init_failed".into(),
        ExitReason::Shutdown(Some(why)) => format!("shutdown_{why}"),
        ExitReason::Failed(failure) => failure.to_string(),
    }
}

fn spec(world: &World, plan: &Plan) -> ChildSpec {
    let Kind {
        restart,
        significant,
        brutal,
    } = plan.kind;
    let spec = match &plan.body {
        Body::Worker(script) => {
            let shutdown = match (brutal, script.on_stop) {
                (true, _) => Shutdown::BrutalKill,
                (false, "never") => Shutdown::Timeout(Duration::from_millis(2)),
                (false, _) => Shutdown::Timeout(Duration::from_secs(5)),
            };
            worker(world, &plan.id, &plan.id, script).shutdown(shutdown)
        }
        Body::Supervisor(flags, children) => {
            let (world, id, children) = (world.clone(), plan.id.clone(), children.clone());
            ChildSpec::supervisor(plan.id.as_str(), options(&world, flags), move || {
                world.say(format!("start {id}"));
                children.iter().map(|plan| spec(&world, plan)).collect()
            })
        }
    };
    spec.restart(restart).significant(significant)
}

fn worker(world: &World, id: &str, label: &str, script: &Script) -> ChildSpec {
    let (world, label, script) = (world.clone(), label.to_owned(), script.clone());
    ChildSpec::actor(id, move || {
        (
            Worker {
                world: world.clone(),
                id: label.clone(),
                script: script.clone(),
            },
            (),
        )
    })
}

/// Carries out a step. Its result is added to the trace after its effects.
async fn take(world: &World, history: &History, top: &Supervisor, step: &Step) -> Option<String> {
    match step {
        Step::Exit(child, reason) => exit(world, child, reason),
        Step::Wait(time) => {
            tokio::time::sleep(Duration::from_millis(*time)).await;
            None
        }
        Step::StartSimple(child, script) => {
            let Kind {
                restart,
                significant,
                brutal,
            } = history.template;
            let shutdown = match (brutal, history.has_stubborn_children()) {
                (true, _) => Shutdown::BrutalKill,
                (false, true) => Shutdown::Timeout(Duration::from_millis(300)),
                (false, false) => Shutdown::Timeout(Duration::from_secs(5)),
            };
            let spec = worker(world, "t", child, script)
                .restart(restart)
                .significant(significant);
            Some(start_reply(top.start_child(spec.shutdown(shutdown)).await))
        }
        Step::TerminateSimple(child) => {
            let actor = world.actor(child)?;
            let children = top.which_children().await.ok()?;
            // OTP terminates by pid, even a child that is gone.
            match children.iter().find(|info| info.cell.as_ref() == Some(&actor)) {
                Some(info) => Some(terminate_reply(top.terminate_child(info.child.key).await)),
                None => Some("reply ok".into()),
            }
        }
        Step::StartChild(name, plan) => match supervisor(top, name).await {
            Some(supervisor) => Some(start_reply(supervisor.start_child(spec(world, plan)).await)),
            None => missing(world, name),
        },
        Step::Terminate(name, child) => match supervisor(top, name).await {
            Some(supervisor) => Some(terminate_reply(supervisor.terminate_child(child.as_str()).await)),
            None => missing(world, name),
        },
        Step::Restart(name, child) => match supervisor(top, name).await {
            Some(supervisor) => Some(restart_reply(supervisor.restart_child(child.as_str()).await)),
            None => missing(world, name),
        },
        Step::Delete(name, child) => match supervisor(top, name).await {
            Some(supervisor) => Some(delete_reply(supervisor.delete_child(child.as_str()).await)),
            None => missing(world, name),
        },
        Step::Stop => None,
    }
}

fn exit(world: &World, child: &str, reason: &'static str) -> Option<String> {
    let actor = world
        .actor(child)
        .filter(|actor| actor.get_status() < ractor::ActorStatus::Stopping)?;
    match reason {
        "killed" => actor.kill(),
        reason => ActorRef::<Die>::from(actor).cast(Die(reason)).ok()?,
    }
    Some(format!("exit {child}"))
}

/// The trace for a supervisor that is missing. Erlang's side only knows the pids of those that
/// existed.
fn missing(world: &World, name: &str) -> Option<String> {
    let known = world
        .0
        .lock()
        .unwrap()
        .trace
        .iter()
        .any(|line| *line == format!("progress {name}"));
    Some(if known {
        "reply gone".into()
    } else {
        "no supervisor".into()
    })
}

async fn supervisor(top: &Supervisor, name: &str) -> Option<Supervisor> {
    if name == "top" {
        return Some(top.clone());
    }
    let children = top.which_children().await.ok()?;
    children
        .iter()
        .find(|info| info.child.id.as_str() == name)?
        .supervisor()
}

fn start_reply(reply: Result<ChildStart, StartChildError>) -> String {
    let word = match reply {
        Ok(ChildStart::Started(_)) => "started",
        Ok(ChildStart::Ignored(_)) => "ignored",
        Err(StartChildError::AlreadyStarted(_)) => "already_started",
        Err(StartChildError::AlreadyPresent(_)) => "already_present",
        Err(StartChildError::Invalid(_)) => "invalid",
        Err(StartChildError::Failed(_) | StartChildError::Cancelled) => "failed",
        Err(StartChildError::Stopping) => "gone",
        Err(_) => "unknown",
    };
    format!("reply {word}")
}

fn restart_reply(reply: Result<ChildStart, RestartChildError>) -> String {
    let word = match reply {
        Ok(ChildStart::Started(_)) => "started",
        Ok(ChildStart::Ignored(_)) => "ignored",
        Err(RestartChildError::Running) => "running",
        Err(RestartChildError::Restarting) => "restarting",
        Err(RestartChildError::NotFound) => "not_found",
        Err(RestartChildError::Stopping) => "gone",
        Err(_) => "failed",
    };
    format!("reply {word}")
}

fn terminate_reply(reply: Result<(), TerminateChildError>) -> String {
    let word = match reply {
        Ok(()) => "ok",
        Err(TerminateChildError::NotFound) => "not_found",
        Err(TerminateChildError::SimpleOneForOne) => "simple_one_for_one",
        Err(TerminateChildError::Stopping) => "gone",
        Err(_) => "unknown",
    };
    format!("reply {word}")
}

fn delete_reply(reply: Result<(), DeleteChildError>) -> String {
    let word = match reply {
        Ok(()) => "ok",
        Err(DeleteChildError::Running) => "running",
        Err(DeleteChildError::Restarting) => "restarting",
        Err(DeleteChildError::NotFound) => "not_found",
        Err(DeleteChildError::SimpleOneForOne) => "simple_one_for_one",
        Err(DeleteChildError::Stopping) => "gone",
        Err(_) => "unknown",
    };
    format!("reply {word}")
}

/// Waits until everything is at rest; `None` if the supervisor is gone.
async fn settle(top: &Supervisor) -> Option<()> {
    loop {
        until_every_task_waits().await;
        if is_at_rest(top).await? {
            return Some(());
        }
    }
}

/// With a paused clock, tokio advances to the next timer once every task waits. This timer, shorter
/// than any of a history's, fires at that moment and takes no time.
async fn until_every_task_waits() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn is_at_rest(supervisor: &Supervisor) -> BoxFuture<'_, Option<bool>> {
    async move {
        for info in supervisor.which_children().await.ok()? {
            let resting = match info.supervisor() {
                Some(nested) => is_at_rest(&nested).await.unwrap_or(false),
                None => true,
            };
            if !resting || !matches!(info.status, ChildStatus::Running | ChildStatus::Undefined) {
                return Some(false);
            }
        }
        Some(true)
    }
    .boxed()
}

async fn look(world: &World, top: &Supervisor) {
    if settle(top).await.is_some() {
        look_at(world, top, "top".into()).await;
    }
}

fn look_at<'a>(world: &'a World, supervisor: &'a Supervisor, name: String) -> BoxFuture<'a, ()> {
    async move {
        let children = supervisor.which_children().await.expect("supervisor is at rest");
        let counts = supervisor.count_children().await.expect("supervisor is at rest");
        let mut line = name;
        for info in &children {
            let status = if info.status == ChildStatus::Running {
                "up"
            } else {
                "undefined"
            };
            line.push_str(&format!(" {}:{status}", info.child.id));
        }
        world.say(format!(
            "{line} [{},{},{}]",
            counts.active, counts.supervisors, counts.workers
        ));
        for info in &children {
            if let Some(nested) = info.supervisor() {
                look_at(world, &nested, info.child.id.to_string()).await;
            }
        }
    }
    .boxed()
}
