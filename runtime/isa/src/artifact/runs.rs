//! The runs of a program, which remember what they were checked against.
//!
//! A file is checked when it is read, and an executor demands the same of the artifact that it loads, for that may come from
//! elsewhere. So that a run is not checked twice, the list keeps the target that all of it passed; whoever takes the list to
//! change it makes it forget.

use crate::run::Run;
use crate::target::Target;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Runs in canonical order: a vector of them.
#[derive(Clone, Default)]
pub struct Runs {
    list: Vec<Run>,
    checked: Option<Arc<Target>>,
}

impl Runs {
    /// Notes that every run passes [`Run::check`] on a target.
    pub(crate) fn note_checked(&mut self, target: &Arc<Target>) {
        self.checked = Some(target.clone());
    }

    /// Whether every run is known to pass [`Run::check`] on a target.
    pub fn is_checked(&self, target: &Target) -> bool {
        self.checked.as_deref().is_some_and(|t| t == target)
    }
}

impl From<Vec<Run>> for Runs {
    fn from(list: Vec<Run>) -> Runs {
        Runs { list, checked: None }
    }
}

impl Deref for Runs {
    type Target = Vec<Run>;

    fn deref(&self) -> &Vec<Run> {
        &self.list
    }
}

impl DerefMut for Runs {
    fn deref_mut(&mut self) -> &mut Vec<Run> {
        self.checked = None;
        &mut self.list
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = &'a Run;
    type IntoIter = std::slice::Iter<'a, Run>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl<'a> IntoIterator for &'a mut Runs {
    type Item = &'a mut Run;
    type IntoIter = std::slice::IterMut<'a, Run>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl PartialEq for Runs {
    fn eq(&self, other: &Runs) -> bool {
        self.list == other.list
    }
}

impl Eq for Runs {}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DType, Dir};
    use crate::op::Opcode;
    use crate::run::Queue;

    #[test]
    fn a_change_of_the_runs_or_of_the_target_is_checked_again() {
        let target = Target::blank("one");
        let mut runs = Runs::from(vec![Run::new(Opcode::Permute, DType::F32, Queue::Sxm(Dir::East))]);
        assert!(!runs.is_checked(&target));
        runs.note_checked(&Arc::new(target.clone()));
        assert!(runs.is_checked(&target) && runs.clone().is_checked(&target));
        assert!(!runs.is_checked(&Target::blank("other")));
        let mut other = target.clone();
        other.lanes += 1;
        assert!(!runs.is_checked(&other));
        runs[0].cycle += 1;
        assert!(!runs.is_checked(&target));
    }
}
