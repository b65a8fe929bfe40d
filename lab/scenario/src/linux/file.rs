//! A file that a step reads out of the guest, within its bounds.

use tdxlab_plan::linux::{FileBy, MAX_FILE, MAX_PATH, ReadFile};

use super::model::LinuxReadFile;
use crate::read::Reader;
use crate::yaml::Node;

/// Most bytes of a file where the step does not say.
const USUAL: u64 = 64 << 10;

/// What to read, or `None` after reporting why not. `qemu_ga`: whether it is there.
pub(super) fn read_file(
    reader: &mut Reader<'_>,
    step: &LinuxReadFile,
    qemu_ga: bool,
    node: &Node,
) -> Option<ReadFile> {
    let path = reader.get(&step.path, node.key("path"));
    let most = reader.get_or(step.most.as_ref(), node.key("most"), USUAL);
    let contains = reader.get_if(step.contains.as_ref(), node.key("contains"));
    let by = reader.get_or(step.by.as_ref(), node.key("by"), FileBy::Agent);
    let (path, most, contains, by) = (path?, most?, contains?, by?);
    let sound = path.starts_with('/') && path.len() <= MAX_PATH && !path.contains('\0');
    if !sound {
        reader.wrong(
            node.key("path"),
            format!("a path in the guest starts with `/` and has at most {MAX_PATH} bytes"),
            "no path",
            "such as /etc/os-release".to_owned(),
        );
    }
    let bounded = u32::try_from(most)
        .ok()
        .filter(|most| (1..=MAX_FILE).contains(most));
    if bounded.is_none() {
        reader.wrong(
            node.key("most"),
            "a file of 1 byte to 1M can be read out of the guest".to_owned(),
            "out of bounds",
            "64K where `most` is left out".to_owned(),
        );
    }
    if contains.as_ref().is_some_and(String::is_empty) {
        reader.wrong(
            node.key("contains"),
            "every file contains nothing".to_owned(),
            "empty",
            "write what must stand in the file, or leave `contains` out".to_owned(),
        );
    }
    if by == FileBy::QemuGa && !qemu_ga {
        reader.wrong(
            node.key("by"),
            "there is no qemu-ga in this guest".to_owned(),
            "without `agent: qemu-ga`",
            "add `agent: qemu-ga` to the guest, or leave `by` out".to_owned(),
        );
    }
    Some(ReadFile {
        path,
        most: bounded?,
        contains,
        by,
    })
}
