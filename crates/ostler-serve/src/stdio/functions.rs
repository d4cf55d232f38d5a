//! Functions of the host that handlers call: `ctx.host.lookup(key)`.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use ostler_core::chain::chain;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use crate::error::BoxError;

/// On whose behalf a function of the host is called.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HostCall {
    /// The time that is left for the request of the handler. `None`: it has no deadline. The call
    /// is ended by the host when it has passed.
    pub remaining: Option<Duration>,
    /// The handler's place in its trace: W3C `traceparent`.
    pub traceparent: Option<String>,
}

/// An error as the handler sees it: `HostError`.
#[derive(Debug, Serialize)]
pub(super) struct HostFailure {
    pub(super) code: &'static str,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) message: String,
}

type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, HostFailure>> + Send>>;
type Function = dyn Fn(Kind, &[u8], HostCall) -> Answer + Send + Sync;

/// The functions that a pool's host offers, by name.
#[derive(Clone, Default)]
pub(crate) struct Functions(Arc<RwLock<BTreeMap<String, Arc<Function>>>>);

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Functions {
    pub(crate) fn names(&self) -> Vec<String> {
        self.0
            .read()
            .map(|all| all.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The function of this name; an error that lists those there are.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Function>, HostFailure> {
        let found = self.0.read().ok().and_then(|all| all.get(name).cloned());
        found.ok_or_else(|| HostFailure {
            code: "method_not_found",
            kind: String::new(),
            message: format!(
                "the host offers no function {name:?}; it offers: {}",
                self.names().join(", ")
            ),
        })
    }

    pub(crate) fn add<A, R, E, F, Fut>(&self, name: String, function: F)
    where
        A: DeserializeOwned,
        R: Serialize,
        E: fmt::Display,
        F: Fn(A, HostCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        let function = move |kind: Kind, frame: &[u8], call: HostCall| -> Answer {
            let arguments = match arguments(kind, frame) {
                Ok(arguments) => arguments,
                Err(message) => {
                    let failure = HostFailure {
                        code: "invalid_arguments",
                        kind: String::new(),
                        message,
                    };
                    return Box::pin(std::future::ready(Err(failure)));
                }
            };
            let work = function(arguments, call);
            Box::pin(async move {
                let result = work.await.map_err(|error| HostFailure {
                    code: "exception",
                    kind: short_name(std::any::type_name::<E>()),
                    message: error.to_string(),
                })?;
                kind.encode(&result).map_err(|error| HostFailure {
                    code: "invalid_result",
                    kind: String::new(),
                    message: chain(&*error),
                })
            })
        };
        if let Ok(mut all) = self.0.write() {
            all.insert(name, Arc::new(function));
        }
    }
}

/// The name of a type without the path of its module.
fn short_name(path: &str) -> String {
    let end = path.find('<').unwrap_or(path.len());
    path[..end].rsplit("::").next().unwrap_or(path).to_owned()
}

/// Which arguments there are.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Given {
    args: Vec<IgnoredAny>,
    kwargs: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct One<A> {
    args: (A,),
}

#[derive(Deserialize)]
struct Several<A> {
    args: A,
}

#[derive(Deserialize)]
struct Named<A> {
    kwargs: A,
}

/// One positional argument is the value itself, several are a tuple, named ones a struct or map;
/// none is `()`.
fn arguments<A: DeserializeOwned>(kind: Kind, frame: &[u8]) -> Result<A, String> {
    let given = given_to(kind, frame);
    given.map_err(|error| format!("the arguments do not fit: {}", chain(&*error)))
}

fn given_to<A: DeserializeOwned>(kind: Kind, frame: &[u8]) -> Result<A, BoxError> {
    let given: Given = kind.decode(frame)?;
    match (given.args.len(), given.kwargs.len()) {
        (0, 0) => kind.decode(&kind.encode(&())?),
        (0, _) => kind.decode::<Named<A>>(frame).map(|named| named.kwargs),
        (1, 0) => kind.decode::<One<A>>(frame).map(|one| one.args.0),
        (_, 0) => kind.decode::<Several<A>>(frame).map(|several| several.args),
        _ => Err("give all arguments by position, or all by name".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Key {
        key: String,
    }

    fn frame(args: serde_json::Value, kwargs: serde_json::Value) -> Vec<u8> {
        Kind::Packet
            .encode(&json!({"type": "call", "id": 1, "args": args, "kwargs": kwargs}))
            .expect("a frame")
    }

    #[test]
    fn arguments_are_a_value_a_tuple_a_struct_or_nothing() {
        let kind = Kind::Packet;
        assert_eq!(
            arguments::<String>(kind, &frame(json!(["a"]), json!({}))),
            Ok("a".to_owned())
        );
        assert_eq!(
            arguments::<(i32, i32)>(kind, &frame(json!([1, 2]), json!({}))),
            Ok((1, 2))
        );
        let key = Key { key: "a".to_owned() };
        assert_eq!(arguments::<Key>(kind, &frame(json!([]), json!({"key": "a"}))), Ok(key));
        assert_eq!(arguments::<()>(kind, &frame(json!([]), json!({}))), Ok(()));
        let why = arguments::<i32>(kind, &frame(json!(["a"]), json!({}))).expect_err("no number");
        assert!(why.starts_with("the arguments do not fit"), "{why}");
        let why = arguments::<i32>(kind, &frame(json!([1]), json!({"a": 1}))).expect_err("both");
        assert!(why.contains("all by name"), "{why}");
        assert_eq!(short_name("std::io::error::Error"), "Error");
        assert_eq!(short_name("alloc::boxed::Box<dyn core::error::Error>"), "Box");
    }
}
