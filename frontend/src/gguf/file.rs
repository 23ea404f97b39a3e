//! The container: key/value pairs, the tensor table, and the ranges of the data. The bytes are hostile: every length is checked against what
//! is left of the file before anything is made of it.

use bytes::Bytes;
use std::collections::BTreeMap;

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i128> {
        match *self {
            Value::Int(int) => Some(int),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(list) => Some(list),
            _ => None,
        }
    }
}

/// A tensor of the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// ggml's number of the element type.
    pub kind: u32,
    /// Start in the data.
    pub offset: u64,
}

/// A whole file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub keys: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Entry>,
    /// Everything behind the table.
    pub data: Bytes,
}

/// Most dimensions of a tensor.
const MOST_DIMS: u32 = 4;

/// A place in the file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let Some(part) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(format!("the file ends at byte {} inside its header", self.bytes.len()));
        };
        self.at += part.len();
        Ok(part)
    }

    fn uint(&mut self, size: u64) -> Result<u64, String> {
        Ok(self
            .take(size)?
            .iter()
            .rev()
            .fold(0, |all, &byte| all << 8 | u64::from(byte)))
    }

    fn text(&mut self) -> Result<String, String> {
        let n = self.uint(8)?;
        let bytes = self.take(n)?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, String> {
        let int = |bits: u64, size: u32| Value::Int(i128::from(((bits << (64 - 8 * size)) as i64) >> (64 - 8 * size)));
        Ok(match kind {
            0 => Value::Int(self.uint(1)?.into()),
            1 => int(self.uint(1)?, 1),
            2 => Value::Int(self.uint(2)?.into()),
            3 => int(self.uint(2)?, 2),
            4 => Value::Int(self.uint(4)?.into()),
            5 => int(self.uint(4)?, 4),
            6 => Value::Float(f32::from_bits(self.uint(4)? as u32).into()),
            7 => Value::Bool(self.uint(1)? != 0),
            8 => Value::Text(self.text()?),
            9 if depth == 0 => {
                let (kind, n) = (self.uint(4)? as u32, self.uint(8)?);
                let mut list = Vec::new();
                for _ in 0..n {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::List(list)
            }
            10 => Value::Int(self.uint(8)?.into()),
            11 => int(self.uint(8)?, 8),
            12 => Value::Float(f64::from_bits(self.uint(8)?)),
            other => {
                return Err(format!(
                    "a value has type {other}, allowed: 0 to 12, lists not inside lists"
                ));
            }
        })
    }
}

/// Whether these are the first bytes of a GGUF file.
fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}

/// Reads the header and the table.
pub(super) fn read(bytes: &Bytes) -> Result<File, String> {
    if !is_gguf(bytes) {
        return Err("no GGUF file: it does not begin with \"GGUF\"".into());
    }
    let mut cursor = Cursor { bytes, at: 4 };
    let version = cursor.uint(4)?;
    if version != 2 && version != 3 {
        return Err(format!("GGUF version {version}, allowed: 2, 3"));
    }
    let (n_tensors, n_keys) = (cursor.uint(8)?, cursor.uint(8)?);
    let mut keys = BTreeMap::new();
    for _ in 0..n_keys {
        let key = cursor.text()?;
        let kind = cursor.uint(4)? as u32;
        let value = cursor
            .value(kind, 0)
            .map_err(|error| format!("key \"{}\": {error}", key.escape_debug()))?;
        keys.insert(key, value);
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..n_tensors {
        let name = cursor.text()?;
        let n_dims = cursor.uint(4)? as u32;
        if n_dims > MOST_DIMS {
            return Err(format!(
                "tensor \"{}\" has {n_dims} dimensions, allowed: at most {MOST_DIMS}",
                name.escape_debug()
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            shape.push(usize::try_from(cursor.uint(8)?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let entry = Entry {
            shape,
            kind: cursor.uint(4)? as u32,
            offset: cursor.uint(8)?,
        };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(format!("two tensors have the name \"{}\"", name.escape_debug()));
        }
    }
    let align = keys.get("general.alignment").and_then(Value::as_int).unwrap_or(32);
    let align = usize::try_from(align)
        .ok()
        .filter(|align| align.is_power_of_two() && *align <= 1 << 20);
    let Some(align) = align else {
        return Err("\"general.alignment\" is no power of two up to 1,048,576".into());
    };
    let start = cursor.at.next_multiple_of(align).min(bytes.len());
    Ok(File {
        keys,
        tensors,
        data: bytes.slice(start..),
    })
}
