//! The machine of a Linux guest in a scenario, within its bounds.

use tdxlab_plan::linux::{AgentBy, LinuxGuest, Quotes};

use super::model::LinuxFile;
use crate::read::Reader;
use crate::yaml::Node;

/// Memory of a guest, in MiB: less does not boot, more is no guest for a test.
pub(super) const MEMORY: std::ops::RangeInclusive<u64> = 256..=(16 << 10);

/// The guest, or `None` after reporting why not.
pub(super) fn guest(reader: &mut Reader<'_>, file: &LinuxFile, node: &Node) -> Option<LinuxGuest> {
    let keys = &file.guest.linux;
    let bytes = reader.get(&keys.memory, node.key("memory"));
    let vcpus = reader.get_or(keys.vcpus.as_ref(), node.key("vcpus"), 1);
    let append = reader.get_or(keys.append.as_ref(), node.key("append"), String::new());
    if let Some(bytes) = bytes
        && (!bytes.is_multiple_of(1 << 20) || !MEMORY.contains(&(bytes >> 20)))
    {
        reader.wrong(
            node.key("memory"),
            "a Linux guest has 256M to 16G, in whole MiB".to_owned(),
            "out of bounds",
            "below 512M Linux makes no transparent huge pages".to_owned(),
        );
    }
    if vcpus.is_some_and(|vcpus| !(1..=64).contains(&vcpus)) {
        reader.wrong(
            node.key("vcpus"),
            "a guest has 1 to 64 vCPUs".to_owned(),
            "out of bounds",
            "1 where `vcpus` is left out".to_owned(),
        );
    }
    let quotes = reader.get_or(keys.quotes.as_ref(), node.key("quotes"), Quotes::None);
    let agent = reader.get_or(keys.agent.as_ref(), node.key("agent"), AgentBy::Init);
    let disk = reader.get_if(keys.disk.as_ref(), node.key("disk"));
    let guest = LinuxGuest {
        mebibytes: bytes? >> 20,
        vcpus: u16::try_from(vcpus?).ok()?,
        append: append?,
        agent: agent?,
        disk: disk?,
        quotes: quotes?,
    };
    if guest.disk.is_some() && guest.agent != AgentBy::QemuGa {
        reader.wrong(
            node.key("disk"),
            "the lab gets into a disk through the qemu-ga on it only".to_owned(),
            "without `agent: qemu-ga`",
            "add `agent: qemu-ga`".to_owned(),
        );
    }
    if guest.disk.is_some() && !guest.append.is_empty() && !guest.has_root() {
        reader.wrong(
            node.key("append"),
            "the disk's own boot loader knows nothing of these words".to_owned(),
            "not passed on",
            "with `root=/dev/vda1` among them the lab's kernel starts the disk".to_owned(),
        );
    }
    Some(guest)
}
