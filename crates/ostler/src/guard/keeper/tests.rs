//! What the pump makes of a guardian's last words, with a scripted guardian.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;

use futures_channel::mpsc;
use ostler_core::ids::{Incarnation, RunId};

use super::super::link::{News, Route};
use super::super::script::Scripted;
use super::*;

impl Source for VecDeque<GuardianEvent> {
    async fn next(&mut self) -> Option<GuardianEvent> {
        self.pop_front()
    }
}

/// A link whose guardian serves, with one incarnation bound to it.
struct Stage {
    link: Link<Scripted>,
    hub: Hub,
    generation: u64,
    news: mpsc::UnboundedReceiver<News>,
    reports: Mutex<Vec<String>>,
}

impl Stage {
    fn new() -> Self {
        let link = Link::new();
        let generation = link.serve(Scripted::default());
        let (sender, news) = mpsc::unbounded();
        let incarnation = Incarnation(1);
        link.bind(0, generation, Route { incarnation, sender });
        Self {
            link,
            hub: Hub::new("test".into(), RunId::from_u128(1)),
            generation,
            news,
            reports: Mutex::default(),
        }
    }

    async fn pump(&self, events: impl IntoIterator<Item = GuardianEvent>) {
        let events: VecDeque<GuardianEvent> = events.into_iter().collect();
        let report = |how| self.reports.lock().unwrap().push(how);
        pump(events, &self.link, &self.hub, self.generation, report).await;
    }

    fn heard(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.news.try_recv().ok())
            .map(|news| match news {
                News::Event(event) => format!("{event:?}").split(' ').next().unwrap().to_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }
}

fn tree_gone() -> GuardianEvent {
    GuardianEvent::TreeGone {
        slot: 0,
        incarnation: 1,
        killed: 0,
        how: Default::default(),
    }
}

fn killed() -> GuardianEvent {
    GuardianEvent::Lost {
        status: Some(std::process::ExitStatus::from_raw(9)),
    }
}

#[tokio::test]
async fn a_lost_guardian_is_reported_and_its_sitters_are_heard_to_the_end() {
    let mut stage = Stage::new();
    let mut events = stage.hub.subscribe();
    stage.pump([killed(), tree_gone(), GuardianEvent::Ended]).await;
    assert_eq!(stage.heard(), ["GuardianLost", "TreeGone", "SittersEnded"]);
    assert_eq!(stage.reports.lock().unwrap().len(), 1);
    assert_eq!(
        events.recv().await.unwrap().event().unwrap().kind,
        EventKind::GuardianLost
    );
    assert!(stage.link.serving_now().is_none());
}

/// A forked copy of the host dropped its instance, and with it shut down the socket that both have.
#[tokio::test]
async fn a_goodbye_that_was_not_asked_for_is_a_loss() {
    let mut stage = Stage::new();
    stage.pump([GuardianEvent::Ended]).await;
    assert_eq!(stage.heard(), ["GuardianLost", "SittersEnded"]);
    assert_eq!(*stage.reports.lock().unwrap(), ["without being asked to"]);
}

#[tokio::test]
async fn an_end_that_was_ordered_is_none() {
    let mut stage = Stage::new();
    stage.link.close();
    stage.pump([GuardianEvent::Ended]).await;
    assert_eq!(*stage.reports.lock().unwrap(), Vec::<String>::new());
    assert!(stage.heard().contains(&"SittersEnded".to_owned()));
}

#[tokio::test]
async fn the_loss_of_one_guardian_leaves_the_next_one_in_service() {
    let stage = Stage::new();
    let next = stage.link.serve(Scripted::default());
    stage.pump([killed(), GuardianEvent::Ended]).await;
    assert_eq!(*stage.reports.lock().unwrap(), Vec::<String>::new());
    assert_eq!(stage.link.serving_now().map(|(_, generation)| generation), Some(next));
}
