//! Where one message ends and the next begins, and how values are written in it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::kind::Kind;
use super::message::{Field, Head};
use super::request::Lending;
use crate::error::BoxError;

/// The longest frame that is read: 64 MiB and 64 KiB.
pub const MAX_FRAME: usize = (64 << 20) + (64 << 10);

/// What the bytes read so far hold.
#[derive(Debug)]
pub enum Split {
    /// One frame: where its content begins and ends, and how many bytes it takes in all.
    Frame {
        /// Of the content.
        begin: usize,
        /// Of the content.
        end: usize,
        /// With its frame.
        taken: usize,
    },
    /// Not yet a whole one.
    More,
    /// No frame at all, and why.
    Broken(String),
}

/// A kind of frames. Sealed: another protocol is another [`Adapter`](crate::Adapter).
pub trait Framing: sealed::Sealed + Send + Sync + 'static {
    /// A value as it is written in a message.
    ///
    /// # Errors
    /// It can't be.
    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
        Self::KIND.encode(value)
    }

    /// A value from the content of a frame.
    ///
    /// # Errors
    /// It is not there.
    fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, BoxError> {
        Self::KIND.decode(frame)
    }
}

/// A 4-byte big-endian length (Erlang's `{packet, 4}`), then one MessagePack map.
#[derive(Debug, Clone, Copy, Default)]
pub struct Packet;

/// One line, one JSON object.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonLines;

/// A message of gRPC, not compressed: a zero, and a packet.
#[cfg(feature = "grpc")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message;

/// The id of the one request of an RPC.
#[cfg(feature = "grpc")]
pub(crate) const ONLY_REQUEST: u64 = 1;

impl Framing for Packet {}

#[cfg(feature = "grpc")]
impl Framing for Message {}

impl Framing for JsonLines {}

pub(crate) mod sealed {
    use super::{BoxError, Field, Head, Kind, Lending, Split};

    /// What the connection needs of a framing.
    pub trait Sealed: Sized {
        /// How values are written.
        const KIND: Kind;
        /// Whether large data can travel beside a message.
        const LENDING: Lending;

        /// The frame of a message with these fields.
        fn frame(fields: &[(&str, Field<'_>)]) -> Vec<u8>;

        /// The first frame in what was read.
        fn split(bytes: &[u8]) -> Split;

        /// What the message is about.
        ///
        /// # Errors
        /// It is none.
        fn head(frame: &[u8]) -> Result<Head, BoxError>;
    }
}

/// A length of 4 bytes, big-endian, and a MessagePack map, after these bytes.
fn packet(mut out: Vec<u8>, fields: &[(&str, Field<'_>)]) -> Vec<u8> {
    let begin = out.len() + 4;
    out.resize(begin, 0);
    // Writing to memory does not fail.
    let _ = rmp::encode::write_map_len(&mut out, fields.len() as u32);
    for (name, value) in fields {
        let _ = rmp::encode::write_str(&mut out, name);
        match value {
            Field::Number(number) => drop(rmp::encode::write_uint(&mut out, *number)),
            Field::Truth(truth) => drop(rmp::encode::write_bool(&mut out, *truth)),
            Field::Text(text) => drop(rmp::encode::write_str(&mut out, text)),
            Field::Encoded(bytes) => out.extend_from_slice(bytes),
        }
    }
    let length = (out.len() - begin) as u32;
    out[begin - 4..begin].copy_from_slice(&length.to_be_bytes());
    out
}

impl sealed::Sealed for Packet {
    const KIND: Kind = Kind::Packet;
    const LENDING: Lending = Lending::SharedMemory;

    fn frame(fields: &[(&str, Field<'_>)]) -> Vec<u8> {
        packet(Vec::new(), fields)
    }

    fn split(bytes: &[u8]) -> Split {
        let Some((length, _)) = bytes.split_first_chunk::<4>() else {
            return Split::More;
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length == 0 || length > MAX_FRAME {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            return Split::Broken(format!(
                "a frame of {length} bytes is announced; does the worker print to stdout? It begins with {start:?}"
            ));
        }
        if bytes.len() < 4 + length {
            return Split::More;
        }
        Split::Frame {
            begin: 4,
            end: 4 + length,
            taken: 4 + length,
        }
    }

    fn head(frame: &[u8]) -> Result<Head, BoxError> {
        <Self as Framing>::decode(frame)
    }
}

#[cfg(feature = "grpc")]
impl sealed::Sealed for Message {
    const KIND: Kind = Kind::Packet;
    const LENDING: Lending = Lending::SharedMemory;

    fn frame(fields: &[(&str, Field<'_>)]) -> Vec<u8> {
        packet(vec![0], fields)
    }

    fn split(bytes: &[u8]) -> Split {
        let Some(([compressed, length @ ..], _)) = bytes.split_first_chunk::<5>() else {
            return Split::More;
        };
        let length = u32::from_be_bytes(*length) as usize;
        if *compressed != 0 || length > MAX_FRAME {
            return Split::Broken(format!(
                "a message of {length} bytes is announced (compressed: {compressed}), where {MAX_FRAME} are allowed, and \
                 none is compressed"
            ));
        }
        if bytes.len() < 5 + length {
            return Split::More;
        }
        Split::Frame {
            begin: 5,
            end: 5 + length,
            taken: 5 + length,
        }
    }

    fn head(frame: &[u8]) -> Result<Head, BoxError> {
        let mut head: Head = <Self as Framing>::decode(frame)?;
        // An RPC has one request, whose id may be left out.
        match head.kind.as_deref() {
            Some("call") => head.request = Some(ONLY_REQUEST),
            _ => head.id = Some(ONLY_REQUEST),
        }
        Ok(head)
    }
}

impl sealed::Sealed for JsonLines {
    const KIND: Kind = Kind::Json;
    const LENDING: Lending = Lending::Never;

    fn frame(fields: &[(&str, Field<'_>)]) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (nth, (name, value)) in fields.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut out, name);
            out.push(b':');
            match value {
                Field::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
                Field::Truth(truth) => out.extend_from_slice(truth.to_string().as_bytes()),
                Field::Text(text) => drop(serde_json::to_writer(&mut out, text)),
                Field::Encoded(bytes) => out.extend_from_slice(bytes),
            }
        }
        out.extend_from_slice(b"}\n");
        out
    }

    fn split(bytes: &[u8]) -> Split {
        match memchr::memchr(b'\n', bytes) {
            Some(end) => Split::Frame {
                begin: 0,
                end,
                taken: end + 1,
            },
            None if bytes.len() > MAX_FRAME => Split::Broken(format!("a line is longer than {MAX_FRAME} bytes")),
            None => Split::More,
        }
    }

    fn head(frame: &[u8]) -> Result<Head, BoxError> {
        <Self as Framing>::decode(frame).map_err(|error| {
            let start = String::from_utf8_lossy(&frame[..frame.len().min(80)]).into_owned();
            format!("{error}; does the worker print to stdout? The line begins with {start:?}").into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::sealed::Sealed;
    use super::*;
    use proptest::prelude::*;

    fn messages<F: Framing>(bytes: &[u8]) -> (Vec<Head>, usize) {
        let (mut heads, mut at) = (Vec::new(), 0);
        while let Split::Frame { begin, end, taken } = F::split(&bytes[at..]) {
            heads.push(F::head(&bytes[at + begin..at + end]).expect("a message"));
            at += taken;
        }
        (heads, at)
    }

    fn frame<F: Framing>(id: u64, text: &str) -> Vec<u8> {
        let body = F::encode(&text).expect("a text");
        F::frame(&[
            ("type", Field::Text("response")),
            ("id", Field::Number(id)),
            ("ok", Field::Encoded(&body)),
        ])
    }

    fn survives_any_cut<F: Framing>(texts: &[String], cut: usize) -> Result<(), TestCaseError> {
        let all: Vec<u8> = (0..).zip(texts).flat_map(|(id, text)| frame::<F>(id, text)).collect();
        let cut = cut % (all.len() + 1);
        let (first, taken) = messages::<F>(&all[..cut]);
        let (rest, _) = messages::<F>(&all[taken..]);
        let ids: Vec<_> = first.iter().chain(&rest).map(|head| head.id).collect();
        prop_assert_eq!(ids, (0..texts.len() as u64).map(Some).collect::<Vec<_>>());
        Ok(())
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_wherever_a_read_ends(texts in prop::collection::vec(".*", 1..5), cut in 0usize..10_000) {
            survives_any_cut::<Packet>(&texts, cut)?;
            survives_any_cut::<JsonLines>(&texts, cut)?;
        }
    }

    #[test]
    fn what_a_worker_prints_is_no_frame_and_is_named() {
        let Split::Broken(why) = Packet::split(b"Loading model...\n") else {
            panic!("it must be refused");
        };
        assert!(why.contains("Loading model"), "{why}");
        let why = JsonLines::head(b"Loading model...").expect_err("it is no message");
        assert!(why.to_string().contains("Loading model"), "{why}");
    }
}
