//! Checks for full strength: compares what the host reports about its workers and its table with
//! /proc.

use std::collections::{HashMap, HashSet};

use nix::unistd::getpid;
use serde_json::Value;

use crate::census::{Census, Id, describe};
use crate::pools::PoolKind;

/// A set of pools at full strength.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) guardian: Id,
    pub(crate) sitters: Vec<Id>,
    pub(crate) workers: Vec<Worker>,
}

/// A worker at rest.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) pool: &'static str,
    pub(crate) index: u64,
    pub(crate) incarnation: u64,
    pub(crate) leader: Id,
    /// The leader's descendants.
    pub(crate) descendants: Vec<Id>,
}

impl Worker {
    /// The name in Ostler's markers and records: `pool/0#3`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}#{}", self.pool, self.index, self.incarnation)
    }
}

/// What the observer knows independently of the host.
pub(crate) struct Expected<'a> {
    pub(crate) host: Id,
    pub(crate) bystanders: &'a [Id],
    pub(crate) kinds: &'a [&'static PoolKind],
    /// Leaders with descendants that were signalled: these trees may be incomplete.
    pub(crate) wounded: &'a HashSet<Id>,
}

/// Whether all pools are at full strength; otherwise, what is missing.
pub(crate) fn settled(status: &Value, census: &Census, expected: &Expected<'_>) -> Result<Settled, String> {
    let ours = census.children(getpid().as_raw());
    let escaped = ours
        .into_iter()
        .find(|id| *id != expected.host && !expected.bystanders.contains(id));
    if let Some(escaped) = escaped {
        return Err(format!("not a descendant of a sitter: {}", describe(escaped)));
    }
    let of_host = census.children(expected.host.pid);
    let [guardian] = of_host[..] else {
        return Err(format!(
            "the host has {} children, expected one guardian",
            of_host.len()
        ));
    };
    if status["guardian"].as_i64() != Some(i64::from(guardian.pid)) {
        return Err(format!(
            "the host reports guardian {}, but it is {}",
            status["guardian"], guardian.pid
        ));
    }
    let sitters = census.children(guardian.pid);
    let mut trees: HashMap<i32, Vec<Id>> = sitters
        .iter()
        .map(|sitter| (sitter.pid, census.below(sitter.pid)))
        .collect();
    let mut workers = Vec::new();
    let mut mortals = 0;
    for kind in expected.kinds {
        let of_kind = status["workers"].as_array().into_iter().flatten();
        let of_kind: Vec<&Value> = of_kind.filter(|worker| worker["pool"] == kind.name).collect();
        if of_kind.len() != kind.workers as usize {
            return Err(format!("pool {} has {} workers", kind.name, of_kind.len()));
        }
        for reported in of_kind {
            if kind.is_steady() {
                workers.push(worker(kind, reported, &mut trees, census, expected)?);
            } else {
                mortals += 1;
                // Its tree comes and goes; the marker identifies it.
                let prefix = format!("{}/", kind.name);
                trees.retain(|_, tree| !bears(tree, &prefix));
            }
        }
    }
    if let Some((sitter, tree)) = trees.iter().find(|(_, tree)| !tree.is_empty()) {
        return Err(format!("unknown process below sitter {sitter}: {}", describe(tree[0])));
    }
    let records = status["records"].as_u64().unwrap_or(u64::MAX);
    let steady = workers.len() as u64;
    if !(steady..=steady + mortals).contains(&records) {
        return Err(format!(
            "the table has {records} records for {steady} workers and {mortals} mortal ones"
        ));
    }
    Ok(Settled {
        guardian,
        sitters,
        workers,
    })
}

/// Whether this is the tree of a mortal worker, even if its leader has no marker yet or is gone.
fn bears(tree: &[Id], prefix: &str) -> bool {
    tree.iter()
        .any(|id| id.marker().map_or(!id.is_alive(), |marker| marker.starts_with(prefix)))
}

fn worker(
    kind: &'static PoolKind,
    reported: &Value,
    trees: &mut HashMap<i32, Vec<Id>>,
    census: &Census,
    expected: &Expected<'_>,
) -> Result<Worker, String> {
    let what = format!("{}/{}", kind.name, reported["index"]);
    if reported["state"] != "Ready" {
        return Err(format!("{what} is {}", reported["state"]));
    }
    let sitter = trees.keys().copied().find(|sitter| {
        let children = census.children(*sitter);
        children
            .iter()
            .any(|child| reported["pid"].as_i64() == Some(i64::from(child.pid)))
    });
    let Some(sitter) = sitter else {
        return Err(format!(
            "{what}: process {} is not the child of a sitter",
            reported["pid"]
        ));
    };
    let mut tree = trees.remove(&sitter).unwrap_or_default();
    let at = tree
        .iter()
        .position(|id| reported["pid"].as_i64() == Some(i64::from(id.pid)));
    let leader = tree.swap_remove(at.ok_or("a child must be a descendant")?);
    let worker = Worker {
        pool: kind.name,
        index: reported["index"].as_u64().unwrap_or_default(),
        incarnation: reported["incarnation"].as_u64().unwrap_or_default(),
        leader,
        descendants: tree,
    };
    if leader.marker() != Some(worker.name()) {
        return Err(format!("{} has the marker {:?}", worker.name(), leader.marker()));
    }
    let processes = worker.descendants.len() + 1;
    let complete = processes == kind.processes || processes < kind.processes && expected.wounded.contains(&leader);
    if !complete {
        return Err(format!("{what} has {processes} processes, expected {}", kind.processes));
    }
    Ok(worker)
}

/// Two incarnations of a worker alive at the same time, whatever the host reports.
pub(crate) fn two_at_once(census: &Census) -> Option<String> {
    let mut seen: HashMap<String, HashMap<u64, Id>> = HashMap::new();
    for id in census.below(getpid().as_raw()) {
        let marker = id.marker();
        let Some((worker, incarnation)) = marker.as_deref().and_then(|marker| marker.split_once('#')) else {
            continue;
        };
        let incarnation = incarnation.parse().unwrap_or_default();
        seen.entry(worker.to_owned()).or_default().insert(incarnation, id);
    }
    for (worker, incarnations) in seen {
        let Some(newest) = incarnations.keys().max() else {
            continue;
        };
        // A walk through /proc takes time. An older process that is still alive was alive when the
        // newer one was seen.
        let older = incarnations.iter().filter(|(of, _)| *of != newest);
        if let Some((older, id)) = older.into_iter().find(|(_, id)| id.is_alive()) {
            return Some(format!(
                "{worker}: incarnations {older} and {newest} at the same time: {}",
                describe(*id)
            ));
        }
    }
    None
}
