//! Full strength: what the host says of its workers and its table, against what /proc shows.

use std::collections::{HashMap, HashSet};

use nix::unistd::getpid;
use serde_json::Value;

use crate::cast::Part;
use crate::census::{Census, Id, describe};

/// A set of pools at full strength.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) guardian: Id,
    pub(crate) sitters: Vec<Id>,
    pub(crate) workers: Vec<Worker>,
}

/// A steady worker.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) pool: &'static str,
    pub(crate) index: u64,
    pub(crate) incarnation: u64,
    pub(crate) leader: Id,
    /// What the leader has started.
    pub(crate) descendants: Vec<Id>,
}

impl Worker {
    /// As Ostler marks and records it: `pool/0#3`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}#{}", self.pool, self.index, self.incarnation)
    }
}

/// What the observer holds against the host's word.
pub(crate) struct Expected<'a> {
    pub(crate) host: Id,
    pub(crate) bystanders: &'a [Id],
    pub(crate) parts: &'a [&'static Part],
    /// Leaders of whose descendants some were struck: they need not be complete.
    pub(crate) wounded: &'a HashSet<Id>,
}

/// Whether all pools are at full strength; else what is not there yet.
pub(crate) fn settled(status: &Value, census: &Census, expected: &Expected<'_>) -> Result<Settled, String> {
    let ours = census.children(getpid().as_raw());
    let escaped = ours
        .into_iter()
        .find(|id| *id != expected.host && !expected.bystanders.contains(id));
    if let Some(escaped) = escaped {
        return Err(format!("without a parent of Ostler's: {}", describe(escaped)));
    }
    let of_host = census.children(expected.host.pid);
    let [guardian] = of_host[..] else {
        return Err(format!("the host has {} children instead of a guardian", of_host.len()));
    };
    if status["guardian"].as_i64() != Some(i64::from(guardian.pid)) {
        return Err(format!(
            "the host says that its guardian is {}, it is {}",
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
    for part in expected.parts {
        let of_part = status["workers"].as_array().into_iter().flatten();
        let of_part: Vec<&Value> = of_part.filter(|worker| worker["pool"] == part.name).collect();
        if of_part.len() != part.workers as usize {
            return Err(format!("pool {} has {} workers", part.name, of_part.len()));
        }
        for told in of_part {
            if part.is_steady() {
                workers.push(worker(part, told, &mut trees, census, expected)?);
            } else {
                mortals += 1;
                // Its tree comes and goes; whose a tree is, its marker tells.
                let prefix = format!("{}/", part.name);
                trees.retain(|_, tree| !bears(tree, &prefix));
            }
        }
    }
    if let Some((sitter, tree)) = trees.iter().find(|(_, tree)| !tree.is_empty()) {
        return Err(format!("under sitter {sitter} nobody's: {}", describe(tree[0])));
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

/// A mortal's tree, also at the moments when its leader has no marker yet or is gone.
fn bears(tree: &[Id], prefix: &str) -> bool {
    tree.iter()
        .any(|id| id.marker().map_or(!id.is_alive(), |marker| marker.starts_with(prefix)))
}

fn worker(
    part: &'static Part,
    told: &Value,
    trees: &mut HashMap<i32, Vec<Id>>,
    census: &Census,
    expected: &Expected<'_>,
) -> Result<Worker, String> {
    let what = format!("{}/{}", part.name, told["index"]);
    if told["state"] != "Ready" {
        return Err(format!("{what} is {}", told["state"]));
    }
    let sitter = trees.keys().copied().find(|sitter| {
        let children = census.children(*sitter);
        children
            .iter()
            .any(|child| told["pid"].as_i64() == Some(i64::from(child.pid)))
    });
    let Some(sitter) = sitter else {
        return Err(format!("{what}: no sitter has the process {}", told["pid"]));
    };
    let mut tree = trees.remove(&sitter).unwrap_or_default();
    let at = tree
        .iter()
        .position(|id| told["pid"].as_i64() == Some(i64::from(id.pid)));
    let leader = tree.swap_remove(at.ok_or("a child is a descendant")?);
    let worker = Worker {
        pool: part.name,
        index: told["index"].as_u64().unwrap_or_default(),
        incarnation: told["incarnation"].as_u64().unwrap_or_default(),
        leader,
        descendants: tree,
    };
    if leader.marker() != Some(worker.name()) {
        return Err(format!("{} bears the marker {:?}", worker.name(), leader.marker()));
    }
    let processes = worker.descendants.len() + 1;
    let complete = processes == part.processes || processes < part.processes && expected.wounded.contains(&leader);
    if !complete {
        return Err(format!(
            "{what} has {processes} processes instead of {}",
            part.processes
        ));
    }
    Ok(worker)
}

/// Two incarnations of one worker that were alive at the same moment, whatever the host says.
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
        // A walk through /proc is no moment: who is alive still was alive when the other was seen.
        let older = incarnations.iter().filter(|(of, _)| *of != newest);
        if let Some((older, id)) = older.into_iter().find(|(_, id)| id.is_alive()) {
            return Some(format!(
                "{worker}: incarnations {older} and {newest} at once: {}",
                describe(*id)
            ));
        }
    }
    None
}
