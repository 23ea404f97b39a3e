//! Several entries over the same constants and states: what is equal becomes one.
//!
//! Constants are the same where their bytes are: each distinct content is kept once, behind one reference. States are the
//! same where name and chip are: all programs number them alike.

use crate::CompileError;
use crate::chain::contents::Contents;
use crate::chain::{BufKind, ChainProgram};
use lockstep_isa::artifact::State;
use std::collections::BTreeMap;

/// Contents by a hash of them that nothing else has.
#[derive(Default)]
struct Pool(BTreeMap<[u8; 32], Contents>);

impl Pool {
    fn take(&mut self, contents: &mut Contents) -> Result<(), CompileError> {
        let hash = blake3::hash(&contents.bytes()?);
        *contents = self.0.entry(*hash.as_bytes()).or_insert(contents.clone()).clone();
        Ok(())
    }
}

/// Makes equal constants and states of the programs one.
///
/// # Errors
/// Constants that cannot be evaluated; a state with buffers on several chips (a bug).
pub(super) fn share(programs: &mut [ChainProgram]) -> Result<(), CompileError> {
    let mut pool = Pool::default();
    for program in programs.iter_mut() {
        for (_, tile) in program.tiles.iter_mut() {
            pool.take(&mut tile.data)?;
        }
        for (_, buf) in program.bufs.iter_mut() {
            if let BufKind::Rows(bytes) = &mut buf.kind {
                pool.take(bytes)?;
            }
        }
    }
    let mut index: BTreeMap<(String, u16), u32> = BTreeMap::new();
    let mut states: Vec<State> = Vec::new();
    for program in programs.iter_mut() {
        let mut chips: Vec<Option<u16>> = vec![None; program.states.len()];
        for (_, buf) in program.bufs.iter_mut() {
            let BufKind::State(own) = &mut buf.kind else { continue };
            let state = program.states.get(*own as usize).zip(chips.get_mut(*own as usize));
            let Some((state, chip)) = state.filter(|(_, chip)| chip.is_none_or(|c| c == buf.chip)) else {
                return Err(CompileError::internal(
                    "chains",
                    format!("state {own} is on several chips"),
                ));
            };
            *chip = Some(buf.chip);
            *own = *index.entry((state.name.clone(), buf.chip)).or_insert_with(|| {
                states.push(state.clone());
                states.len() as u32 - 1
            });
        }
    }
    programs.iter_mut().for_each(|p| p.states.clone_from(&states));
    Ok(())
}
