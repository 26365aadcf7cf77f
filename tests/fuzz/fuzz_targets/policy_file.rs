//! Policy files: never panic; a refusal has problems that can be printed; a policy can be asked.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::{Bounds, Source, Target};

fuzz_target!(|text: &str| {
    match policy::compile(vec![Source { name: "fuzz".into(), text: text.into() }]) {
        Ok(policy) => {
            if let Ok(target) = Target::parse("GET", b"/v2/packs/7", Some(b"api.iconflow.dev"), None, &Bounds::DEFAULT) {
                let _ = policy.api_at(&target.host).and_then(|api| api.find(&target));
            }
        }
        Err(problems) => {
            assert!(!problems.list.is_empty());
            let _ = problems.to_string();
        }
    }
});
