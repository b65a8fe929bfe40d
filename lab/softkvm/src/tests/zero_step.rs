//! The zero-step filter of the module, and what KVM makes of an entry that it refuses.

use super::*;

/// Touches a private page by the instruction at `rip`, and fetches the #VE, if there is one.
fn touch(core: &mut SoftKvm<SimMachine>, vcpu: VcpuId, offset: u64, rip: u64) -> Advance {
    let request = Request::Fault {
        gpa: gpa(offset),
        side: Side::Private,
        write: true,
        rip,
    };
    core.submit(vcpu, request, [0; 16]);
    let (end, _) = run(core, vcpu);
    if end == Advance::Ve {
        let mut gprs = [0; 16];
        gprs[reg::RAX] = leaf::VP_VEINFO_GET;
        core.submit(vcpu, Request::Tdcall { rip: 0 }, gprs);
        assert_eq!(run(core, vcpu), DONE);
    }
    end
}

fn on(module: ModuleVersion, policy: impl Policy + 'static) -> SoftKvm<SimMachine> {
    let config = Config {
        module,
        ..config(KvmDesign::Stock)
    };
    SoftKvm::new(SimMachine::new(256 * M), config, Box::new(policy)).unwrap()
}

/// Touches so many missing pages by one instruction.
fn step(core: &mut SoftKvm<SimMachine>, pages: u64) -> Vec<Advance> {
    (0..pages)
        .map(|page| touch(core, CPU, page << 12, 0x1000))
        .collect()
}

#[test]
fn the_oldest_module_keeps_a_vcpu_out_whose_seventh_page_is_pending() {
    let mut core = on(ModuleVersion::V1_5_01, Faithful);
    assert_eq!(step(&mut core, 6), [Advance::Ve; 6]);
    assert_eq!(core.exits().access, 6);
    assert_eq!(touch(&mut core, CPU, 6 << 12, 0x1000), Advance::Dead);
    assert_eq!(core.death().unwrap().by, Killer::ExitsForEver);
    assert_eq!(core.exits().access, 6 + 1000, "each entry is an exit");
    for module in ModuleVersion::ALL.into_iter().skip(1) {
        let mut core = on(module, Faithful);
        assert_eq!(step(&mut core, 40), [Advance::Ve; 40], "{module}");
        assert_eq!(core.exits().access, 40, "{module}");
    }
}

#[test]
fn another_instruction_or_another_vcpu_is_another_count() {
    let mut core = on(ModuleVersion::V1_5_01, Faithful);
    for page in 0..40 {
        let rip = 0x1000 + 16 * (page % 2);
        assert_eq!(touch(&mut core, CPU, page << 12, rip), Advance::Ve);
    }
    for page in 40..52 {
        let vcpu = if page % 2 == 0 { CPU } else { OTHER };
        assert_eq!(touch(&mut core, vcpu, page << 12, 0x2000), Advance::Ve);
    }
}

/// An entry is one whatever the exit before it was for: here a shared page.
#[test]
fn an_entry_at_another_instruction_is_where_the_guest_has_got_to() {
    let mut core = on(ModuleVersion::V1_5_01, Faithful);
    assert_eq!(step(&mut core, 6), [Advance::Ve; 6]);
    let shared = Request::Fault {
        gpa: gpa(M),
        side: Side::Shared,
        write: true,
        rip: 0x2000,
    };
    core.submit(CPU, shared, [0; 16]);
    assert_eq!(run(&mut core, CPU).0, Advance::Done);
    assert_eq!(touch(&mut core, CPU, 6 << 12, 0x1000), Advance::Ve);
}

/// A noted page that a hole takes is mapped again by the next entry, whatever that is for: here it is the
/// return from a hypercall.
#[test]
fn what_is_noted_comes_back_with_the_next_entry() {
    let mut core = on(ModuleVersion::V1_5_25, Faithful);
    step(&mut core, 8);
    assert_eq!(punch(&mut core, 0, 8 << 12), 0);
    assert_eq!(pages(&core), (0, 0));
    let (end, status, _) = hypercall(&mut core, vmcall::HLT, &[]);
    assert_eq!((end, status), (Advance::Done, vmcall::SUCCESS));
    assert_eq!(pages(&core), (2, 0), "the seventh and the eighth");
    assert_eq!(core.exits().access, 8 + 2);

    // A fault elsewhere ends it.
    assert_eq!(touch(&mut core, CPU, M, 0x3000), Advance::Ve);
    assert_eq!(punch(&mut core, 0, M), 0);
    hypercall(&mut core, vmcall::HLT, &[]);
    assert_eq!(pages(&core), (1, 0));
}

#[test]
fn exits_of_accept_do_not_count() {
    let mut core = on(ModuleVersion::V1_5_25, Faithful);
    for page in 0..40 {
        assert_eq!(accept(&mut core, page << 12, PageLevel::Size4K), DONE);
    }
    assert_eq!(punch(&mut core, 0, 40 << 12), 0);
    hypercall(&mut core, vmcall::HLT, &[]);
    assert_eq!(pages(&core), (0, 0));
}
