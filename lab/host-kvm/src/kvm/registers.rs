//! Instruction pointers of a guest's vCPUs.

use std::time::Duration;

use tdxlab_host::vm::Vm;

/// A file of evidence: registers and interrupt controllers, by QEMU's monitor.
pub(super) fn registers(vm: &mut Vm) -> Option<(String, Vec<u8>)> {
    let mut text = String::new();
    for line in ["info registers -a", "info lapic", "info pic"] {
        let command = qapi::qmp::human_monitor_command {
            cpu_index: None,
            command_line: line.to_owned(),
        };
        text += &vm.qmp().execute(&command, Duration::from_secs(2)).ok()?;
    }
    Some(("registers.txt".to_owned(), text.into_bytes()))
}
