//! The container: header, table and sections, without their meaning.
//!
//! Sections follow each other in the order of [`Section::ALL`], each at the next multiple of its alignment; the bytes
//! between are zero. So a file has one layout only, and every byte of it is covered by a checksum or known to be zero.

use super::error::{ArtifactError, ArtifactErrorKind};
use super::record::{Header, TableRow};
use std::io::Write;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

pub use super::record::Section;

/// First bytes of every artifact.
pub const MAGIC: [u8; 8] = *b"LOCKSTEP";

/// Version of the format.
pub const VERSION: u32 = 3;

/// Bytes of the header, and offset of the table.
pub const HEADER_BYTES: usize = 64;

const ROW_BYTES: usize = size_of::<TableRow>();

/// One row of the section table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionInfo {
    /// The section.
    pub section: Section,
    /// Byte range in the file.
    pub range: Range<u64>,
    /// crc32 of its bytes.
    pub crc32: u32,
    /// blake3 hash of its bytes.
    pub blake3: [u8; 32],
}

fn align_up(offset: u64, align: u32) -> Option<u64> {
    offset.checked_next_multiple_of(align as u64)
}

/// Writes a file of the given sections, in the order of [`Section::ALL`].
pub(crate) fn write(sections: &[&[u8]; Section::ALL.len()], out: &mut dyn Write) -> Result<(), ArtifactError> {
    let mut table = Vec::with_capacity(sections.len());
    let mut end = (HEADER_BYTES + sections.len() * ROW_BYTES) as u64;
    for (section, bytes) in Section::ALL.into_iter().zip(sections) {
        let too_long = || ArtifactErrorKind::value("length", bytes.len(), "what fits a file");
        let offset = align_up(end, section.align()).ok_or_else(|| too_long().at(section.name()))?;
        let length = bytes.len() as u64;
        end = offset
            .checked_add(length)
            .ok_or_else(|| too_long().at(section.name()))?;
        table.push(TableRow {
            kind: (section as u32).into(),
            align: section.align().into(),
            offset: offset.into(),
            length: length.into(),
            crc: crc32fast::hash(bytes).into(),
            zero: 0.into(),
            blake3: *blake3::hash(bytes).as_bytes(),
        });
    }
    let mut header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        crc: 0.into(),
        file_length: end.into(),
        table_offset: (HEADER_BYTES as u64).into(),
        table_count: (table.len() as u32).into(),
        zero: [0; 28],
    };
    header.crc = header_crc(&header, table.as_bytes()).into();
    let io = |e: std::io::Error| ArtifactErrorKind::Io(e).at("");
    out.write_all(header.as_bytes()).map_err(io)?;
    out.write_all(table.as_bytes()).map_err(io)?;
    let mut at = (HEADER_BYTES + table.len() * ROW_BYTES) as u64;
    for (row, bytes) in table.iter().zip(sections) {
        let gap = [0u8; 4096];
        let padding = (row.offset.get() - at) as usize;
        out.write_all(&gap[..padding]).map_err(io)?;
        out.write_all(bytes).map_err(io)?;
        at = row.offset.get() + row.length.get();
    }
    Ok(())
}

/// crc32 of the header, taken with its checksum zero, and the table.
fn header_crc(header: &Header, table: &[u8]) -> u32 {
    let mut h = *header;
    h.crc = 0.into();
    let mut crc = crc32fast::Hasher::new();
    crc.update(h.as_bytes());
    crc.update(table);
    crc.finalize()
}

/// The section table of a file: checks header, table, layout and padding, and that every range lies in the file. The
/// sections themselves are not read.
///
/// # Errors
/// Anything that [`Artifact::to_bytes`](super::Artifact::to_bytes) would not have written.
pub fn sections(bytes: &[u8]) -> Result<Vec<SectionInfo>, ArtifactError> {
    use ArtifactErrorKind as Kind;
    let here = |kind: Kind| kind.at("header");
    let start = &bytes[..bytes.len().min(MAGIC.len())];
    if start != MAGIC {
        let found = start.to_vec();
        return Err(Kind::NotAnArtifact { found }.at(""));
    }
    let length = |expected: u64| {
        let found = bytes.len() as u64;
        Kind::Length { found, expected }.at("")
    };
    let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| length(HEADER_BYTES as u64))?;
    if header.version.get() != VERSION {
        let (found, supported) = (header.version.get(), VERSION);
        return Err(Kind::Version { found, supported }.at(""));
    }
    if header.file_length.get() != bytes.len() as u64 {
        return Err(length(header.file_length.get()));
    }
    let count = Section::ALL.len();
    if header.table_count.get() as usize != count {
        return Err(here(Kind::value("table count", header.table_count, count)));
    }
    if header.table_offset.get() != HEADER_BYTES as u64 {
        return Err(here(Kind::value("table offset", header.table_offset, HEADER_BYTES)));
    }
    let table = rest
        .get(..count * ROW_BYTES)
        .ok_or_else(|| length((HEADER_BYTES + count * ROW_BYTES) as u64))?;
    let (found, expected) = (header_crc(&header, table), header.crc.get());
    if found != expected {
        return Err(here(Kind::Checksum { found, expected }));
    }
    if header.zero != [0; 28] {
        return Err(here(Kind::value("reserved bytes", "not zero", "zero")));
    }
    let mut end = (HEADER_BYTES + count * ROW_BYTES) as u64;
    let mut out = Vec::with_capacity(count);
    for (section, chunk) in Section::ALL.into_iter().zip(table.chunks_exact(ROW_BYTES)) {
        let name = section.name();
        let at = |kind: Kind| kind.at(format!("section {name}"));
        let row = TableRow::read_from_bytes(chunk).map_err(|_| length(end))?;
        let fields = [
            ("kind", row.kind.get() as u64, section as u64),
            ("align", row.align.get() as u64, section.align() as u64),
            ("reserved field", row.zero.get() as u64, 0),
        ];
        for (what, found, allowed) in fields {
            if found != allowed {
                return Err(at(Kind::value(what, found, allowed)));
            }
        }
        let (offset, bytes_long) = (row.offset.get(), row.length.get());
        let allowed = align_up(end, section.align()).ok_or_else(|| length(end))?;
        if offset != allowed {
            return Err(at(Kind::value("offset", offset, allowed)));
        }
        let gap = bytes.get(end as usize..offset as usize);
        let gap = gap.ok_or_else(|| length(offset))?;
        if let Some(i) = gap.iter().position(|b| *b != 0) {
            let (offset, found) = (end + i as u64, gap[i]);
            return Err(at(Kind::Padding { offset, found }));
        }
        let stop = offset.checked_add(bytes_long);
        end = match stop {
            Some(stop) if stop <= bytes.len() as u64 => stop,
            _ => {
                let allowed = format!("at most {}", bytes.len() as u64 - offset);
                return Err(at(Kind::value("length", bytes_long, allowed)));
            }
        };
        if !bytes_long.is_multiple_of(section.element_bytes() as u64) {
            let allowed = format!("a multiple of {}", section.element_bytes());
            return Err(at(Kind::value("length", bytes_long, allowed)));
        }
        out.push(SectionInfo {
            section,
            range: offset..end,
            crc32: row.crc.get(),
            blake3: row.blake3,
        });
    }
    if end != bytes.len() as u64 {
        return Err(length(end));
    }
    Ok(out)
}

/// The bytes of a section that [`sections`] has found in the file.
pub(crate) fn bytes_of<'a>(bytes: &'a [u8], info: &SectionInfo) -> &'a [u8] {
    bytes
        .get(info.range.start as usize..info.range.end as usize)
        .unwrap_or(&[])
}

/// The crc32 of some bytes, to be combined with that of the bytes after them.
pub(crate) fn crc_of(bytes: &[u8]) -> crc32fast::Hasher {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes);
    crc
}

/// Compares the crc32 of a section's bytes with what the table states.
pub(crate) fn check_crc(found: u32, info: &SectionInfo) -> Result<(), ArtifactError> {
    let expected = info.crc32;
    if found != expected {
        let at = format!("section {}", info.section.name());
        return Err(ArtifactErrorKind::Checksum { found, expected }.at(at));
    }
    Ok(())
}

/// Checks the blake3 hash of every section of a file, as `lockstep verify` does.
///
/// # Errors
/// A file whose table is not readable, or the first section whose hash differs.
pub fn check_hashes(bytes: &[u8]) -> Result<(), ArtifactError> {
    for info in &sections(bytes)? {
        if *blake3::hash(bytes_of(bytes, info)).as_bytes() != info.blake3 {
            return Err(ArtifactErrorKind::Hash.at(format!("section {}", info.section.name())));
        }
    }
    Ok(())
}
