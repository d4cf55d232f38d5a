//! Large data: bytes, numpy arrays and Arrow tables that travel beside a message, in shared memory
//! (`docs/worker-protocol.md`, Values).

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytemuck::Pod;
use ostler_os::shared::{Mapping, Reference, Segment};
use rmp_serde::MSGPACK_EXT_STRUCT_NAME;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// From this size on, bytes travel in shared memory: 1 MiB.
pub const SHARED_MIN: usize = 1 << 20;

const ARRAY: i8 = 1;
const SHARED: i8 = 2;
const ARROW: i8 = 3;

thread_local! {
    /// Where a value that is being encoded puts its segments. `None`: into the message itself.
    static LENT: RefCell<Option<Vec<Segment>>> = const { RefCell::new(None) };
    /// What came with the message that is being decoded.
    static RECEIVED: RefCell<Segments> = const { RefCell::new(Segments(Vec::new())) };
}

/// Segments of other processes that came with a message.
#[derive(Debug, Clone, Default)]
pub(super) struct Segments(Vec<(u64, Arc<Mapping>)>);

impl Segments {
    /// Maps what these references name.
    pub(super) fn open(references: &[Reference]) -> Result<Self, String> {
        let open = |reference: &Reference| {
            let mapping = Mapping::open(reference).map_err(|error| format!("its shared memory is gone: {error}"))?;
            Ok((reference.ino, Arc::new(mapping)))
        };
        references.iter().map(open).collect::<Result<_, _>>().map(Self)
    }
}

/// Encodes by `encode`; large bytes go into segments, which live until the request that they belong
/// to has ended.
pub(super) fn lending<T>(encode: impl FnOnce() -> T) -> (T, Vec<Segment>) {
    LENT.set(Some(Vec::new()));
    let encoded = encode();
    (encoded, LENT.take().unwrap_or_default())
}

/// Decodes by `decode`, with the segments that came with the message.
pub(super) fn receiving<T>(segments: Segments, decode: impl FnOnce() -> T) -> T {
    RECEIVED.set(segments);
    let decoded = decode();
    RECEIVED.take();
    decoded
}

/// Bytes. From [`SHARED_MIN`] on they travel in shared memory: one copy when they are sent, none
/// when they are received. Clones share them.
///
/// Python sees `bytes`, or a read-only `memoryview` where they came in shared memory.
#[derive(Clone)]
pub struct Blob(Arc<dyn Bytes>);

trait Bytes: AsRef<[u8]> + Send + Sync {}
impl<T: AsRef<[u8]> + Send + Sync> Bytes for T {}

struct Mapped(Arc<Mapping>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct Items<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for Items<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().as_ref()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match lend(self) {
            Some(reference) => {
                let payload = rmp_serde::to_vec_named(&reference).map_err(S::Error::custom)?;
                extension(serializer, SHARED, &payload)
            }
            None => serializer.serialize_bytes(self),
        }
    }
}

/// The segment that these bytes are put into. `None`: they are small, their message cannot carry
/// references, or the system has no room for a segment.
fn lend(bytes: &[u8]) -> Option<Reference> {
    if bytes.len() < SHARED_MIN {
        return None;
    }
    LENT.with_borrow_mut(|lent| {
        let lent = lent.as_mut()?;
        let segment = Segment::new(bytes).ok()?;
        let reference = segment.reference().clone();
        lent.push(segment);
        Some(reference)
    })
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(Value)? {
            Found::Bytes(blob) => Ok(blob),
            Found::Extension(SHARED, payload) => received(&payload).map_err(D::Error::custom),
            Found::Extension(code, _) => Err(D::Error::custom(format!(
                "an extension of type {code}, where bytes are expected"
            ))),
        }
    }
}

fn received(payload: &[u8]) -> Result<Blob, String> {
    let reference: Reference = rmp_serde::from_slice(payload).map_err(|error| error.to_string())?;
    let known = RECEIVED.with_borrow(|segments| {
        let found = segments.0.iter().find(|(ino, _)| *ino == reference.ino);
        found.map(|(_, mapping)| Arc::clone(mapping))
    });
    let mapping = known.ok_or("the message names shared memory that did not come with it")?;
    Ok(Blob(Arc::new(Mapped(mapping))))
}

/// An n-dimensional array, as numpy has it. Its elements travel like a [`Blob`].
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    dtype: String,
    shape: Vec<usize>,
    data: Blob,
}

/// What an [`Array`] can hold.
pub trait Element: Pod + Send + Sync + sealed::Sealed {
    /// numpy's name of the type, such as `<f4`.
    const DTYPE: &'static str;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty: $kind:literal;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: &'static str = if size_of::<$type>() == 1 {
                concat!("|", $kind)
            } else if cfg!(target_endian = "little") {
                concat!("<", $kind)
            } else {
                concat!(">", $kind)
            };
        }
    )*};
}

elements! {
    u8: "u1"; u16: "u2"; u32: "u4"; u64: "u8";
    i8: "i1"; i16: "i2"; i32: "i4"; i64: "i8";
    f32: "f4"; f64: "f8";
}

impl Array {
    /// An array of this shape, in C order. `None`: the shape has another number of elements.
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, elements: Vec<T>) -> Option<Self> {
        let shape = shape.into();
        let count = shape
            .iter()
            .try_fold(1usize, |count, dimension| count.checked_mul(*dimension))?;
        (count == elements.len()).then(|| Self {
            dtype: T::DTYPE.to_owned(),
            shape,
            data: Blob(Arc::new(Items(elements))),
        })
    }

    /// numpy's name of the elements' type, such as `<f4`.
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes of all elements, in C order.
    pub fn bytes(&self) -> &Blob {
        &self.data
    }

    /// The elements in C order, without a copy. `None`: they are of another type, or not aligned in
    /// memory, as small arrays may be, for which [`Array::to_vec`] works.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        (self.dtype == T::DTYPE).then(|| bytemuck::try_cast_slice(&self.data).ok())?
    }

    /// A copy of the elements in C order. `None`: they are of another type.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        let whole = self.data.len().is_multiple_of(size_of::<T>());
        (self.dtype == T::DTYPE && whole).then(|| bytemuck::pod_collect_to_vec(&self.data))
    }
}

impl Serialize for Array {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let payload = (&self.dtype, &self.shape, &self.data);
        let payload = rmp_serde::to_vec_named(&payload).map_err(S::Error::custom)?;
        extension(serializer, ARRAY, &payload)
    }
}

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = payload(deserializer, ARRAY, "an array")?;
        let (dtype, shape, data) = rmp_serde::from_slice(&payload).map_err(D::Error::custom)?;
        Ok(Self { dtype, shape, data })
    }
}

/// An Arrow table, as the bytes of an IPC stream. They travel like a [`Blob`].
#[derive(Debug, Clone, PartialEq)]
pub struct ArrowStream(pub Blob);

impl Serialize for ArrowStream {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let payload = rmp_serde::to_vec_named(&self.0).map_err(S::Error::custom)?;
        extension(serializer, ARROW, &payload)
    }
}

impl<'de> Deserialize<'de> for ArrowStream {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = payload(deserializer, ARROW, "an Arrow table")?;
        rmp_serde::from_slice(&payload).map(Self).map_err(D::Error::custom)
    }
}

/// Bytes to serde's serializers, which take a slice for a sequence.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn extension<S: Serializer>(serializer: S, code: i8, payload: &[u8]) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(MSGPACK_EXT_STRUCT_NAME, &(code, Raw(payload)))
}

fn payload<'de, D: Deserializer<'de>>(deserializer: D, code: i8, what: &str) -> Result<Vec<u8>, D::Error> {
    match deserializer.deserialize_any(Value)? {
        Found::Extension(found, payload) if found == code => Ok(payload),
        _ => Err(D::Error::custom(format!("another value, where {what} is expected"))),
    }
}

/// What is where large data are expected.
enum Found {
    Bytes(Blob),
    Extension(i8, Vec<u8>),
}

struct Value;

impl<'de> Visitor<'de> for Value {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes or an extension")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Found, E> {
        Ok(Found::Bytes(bytes.to_vec().into()))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Found, A::Error> {
        let missing = || A::Error::custom("an extension has a type and a payload");
        let code: i8 = parts.next_element()?.ok_or_else(missing)?;
        let payload: &[u8] = parts.next_element()?.ok_or_else(missing)?;
        Ok(Found::Extension(code, payload.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> (T, usize, usize) {
        let (encoded, lent) = lending(|| rmp_serde::to_vec_named(value).expect("it is encoded"));
        let references: Vec<_> = lent.iter().map(|segment| segment.reference().clone()).collect();
        let segments = Segments::open(&references).expect("they are there");
        let decoded = receiving(segments, || rmp_serde::from_slice(&encoded).expect("it is decoded"));
        (decoded, encoded.len(), lent.len())
    }

    #[test]
    fn small_values_are_in_the_message_and_large_ones_beside_it() {
        let small = Blob::from(vec![7; 100]);
        assert_eq!(there_and_back(&small), (small, 102, 0));
        let large = Blob::from(vec![7; SHARED_MIN]);
        let (back, in_message, beside) = there_and_back(&large);
        assert!(back == large && in_message < 200 && beside == 1);

        let array = Array::new([2, 3], vec![1.5f32, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("2 × 3");
        let (back, _, beside) = there_and_back(&array);
        assert_eq!(
            (back.to_vec::<f32>(), back.shape(), beside),
            (array.to_vec(), &[2, 3][..], 0)
        );
        assert_eq!(back.to_vec::<i32>(), None, "another type");
        let array = Array::new([1 << 18], vec![2.5f64; 1 << 18]).expect("one dimension");
        let (back, in_message, beside) = there_and_back(&(vec![array.clone()],));
        assert!(in_message < 200 && beside == 1, "{in_message} bytes, {beside} segments");
        assert_eq!(back.0[0].as_slice::<f64>(), array.as_slice());
        assert!(Array::new([3], vec![1u8]).is_none());
    }

    #[test]
    fn outside_of_a_request_everything_is_in_the_message() {
        let large = ArrowStream(Blob::from(vec![7; SHARED_MIN]));
        let encoded = rmp_serde::to_vec_named(&large).expect("it is encoded");
        assert!(encoded.len() > SHARED_MIN);
        assert_eq!(
            rmp_serde::from_slice::<ArrowStream>(&encoded).expect("it is decoded"),
            large
        );
        rmp_serde::from_slice::<Array>(&encoded).expect_err("that is no array");
    }
}
