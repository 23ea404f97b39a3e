//! Columns of integers, as the page reads them: each delta-coded in zigzag varints, all of a blob compressed together.
//!
//! A blob is, after gzip: u32 columns; of each column u8 bytes of the name, the name, u32 numbers, u32 bytes, the bytes. All
//! integers are little-endian. A number is stored as its difference to the one before it in the column.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// One column while it is filled.
#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    bytes: Vec<u8>,
    count: u32,
    last: i64,
}

impl Column {
    /// Appends a number.
    pub fn push(&mut self, n: i64) {
        let delta = n.wrapping_sub(self.last);
        self.last = n;
        self.count += 1;
        let mut left = ((delta << 1) ^ (delta >> 63)) as u64;
        while left >= 0x80 {
            self.bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.bytes.push(left as u8);
    }
}

/// Columns by name, in the order in which they were put in.
#[derive(Clone, Debug, Default)]
pub(super) struct Blob {
    columns: Vec<(&'static str, Column)>,
}

impl Blob {
    /// Adds a finished column.
    pub fn put(&mut self, name: &'static str, column: Column) {
        self.columns.push((name, column));
    }

    /// Compresses the columns.
    pub fn finish(self) -> String {
        let mut out = Vec::new();
        out.extend((self.columns.len() as u32).to_le_bytes());
        for (name, column) in &self.columns {
            out.push(name.len() as u8);
            out.extend(name.as_bytes());
            out.extend(column.count.to_le_bytes());
            out.extend((column.bytes.len() as u32).to_le_bytes());
            out.extend(&column.bytes);
        }
        compressed(&out)
    }
}

/// Bytes compressed with gzip, in base64. The same bytes give the same text.
pub(super) fn compressed(bytes: &[u8]) -> String {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    // Writing into a vector cannot fail.
    let packed = gzip.write_all(bytes).and_then(|()| gzip.finish());
    STANDARD.encode(packed.unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    /// The columns of a blob, read as the page reads them.
    pub fn read(blob: &str) -> BTreeMap<String, Vec<i64>> {
        let packed = STANDARD.decode(blob).expect("base64");
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut bytes)
            .expect("gzip");
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (mut at, mut out) = (4, BTreeMap::new());
        for _ in 0..word(0) {
            let named = bytes[at] as usize;
            let name = String::from_utf8_lossy(&bytes[at + 1..at + 1 + named]).into_owned();
            at += 1 + named;
            let count = word(at);
            at += 8;
            let (mut column, mut last) = (Vec::new(), 0i64);
            for _ in 0..count {
                let (mut n, mut shift) = (0u64, 0);
                loop {
                    n |= ((bytes[at] & 0x7f) as u64) << shift;
                    shift += 7;
                    at += 1;
                    if bytes[at - 1] & 0x80 == 0 {
                        break;
                    }
                }
                last += (n >> 1) as i64 ^ -((n & 1) as i64);
                column.push(last);
            }
            out.insert(name, column);
        }
        assert_eq!(at, bytes.len());
        out
    }

    #[test]
    fn numbers_come_back() {
        let numbers = [0, 1, -1, 63, 64, -65, 1 << 48, -(1 << 48), 5];
        let mut column = Column::default();
        numbers.iter().for_each(|&n| column.push(n));
        let mut blob = Blob::default();
        blob.put("n", column);
        blob.put("empty", Column::default());
        let back = read(&blob.finish());
        assert_eq!(back["n"], numbers);
        assert!(back["empty"].is_empty());
    }
}
