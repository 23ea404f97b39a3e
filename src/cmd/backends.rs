//! `lockstep backends`: the executors that exist, whether this build has them, and the devices that they find.

use super::{lines, print_json};
use crate::args::BackendsVerb;
use crate::diag::{JSON_VERSION, Outcome};
use crate::text;
use lockstep::runtime::executor::NAMES;
use lockstep::{ExecError, lookup};
use serde_json::{Value, json};

/// A device of an executor.
struct Found {
    name: String,
    platform: String,
    driver: String,
    memory_bytes: u64,
    refusal: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// None: what cannot be used is listed with the reason.
pub fn run(verb: &BackendsVerb) -> Outcome {
    let mut rows = vec![text::row(["executor", "device", "name", "memory", "usable"])];
    let mut all: Vec<Value> = Vec::new();
    for name in NAMES {
        let missing = match lookup(name) {
            Err(e @ ExecError::NotBuilt { .. }) => Some(e.to_string()),
            _ => None,
        };
        let built = missing.is_none();
        let (found, why) = match (name, missing) {
            (_, Some(why)) => (Vec::new(), Some(why)),
            ("opencl", None) => match devices() {
                Ok(list) => (list, None),
                Err(why) => (Vec::new(), Some(why)),
            },
            _ => (Vec::new(), None),
        };
        let why = why.or_else(|| {
            let none = name == "opencl" && found.is_empty();
            none.then(|| "no driver has a device".to_owned())
        });
        let usable = |refusal: &Option<String>| refusal.clone().map_or("yes".to_owned(), |why| format!("no: {why}"));
        if found.is_empty() {
            rows.push(vec![
                name.to_owned(),
                String::new(),
                String::new(),
                String::new(),
                usable(&why),
            ]);
        }
        for (i, d) in found.iter().enumerate() {
            rows.push(vec![
                name.to_owned(),
                i.to_string(),
                format!("{}, {} {}", d.name, d.platform, d.driver),
                text::bytes(d.memory_bytes),
                usable(&d.refusal),
            ]);
        }
        let devices: Vec<Value> = found
            .iter()
            .enumerate()
            .map(|(i, d)| {
                json!({
                    "device": i, "name": d.name, "platform": d.platform, "driver": d.driver,
                    "memory_bytes": d.memory_bytes, "usable": d.refusal.is_none(), "reason": d.refusal,
                })
            })
            .collect();
        let usable = why.is_none() && (found.is_empty() || found.iter().any(|d| d.refusal.is_none()));
        all.push(json!({ "name": name, "built": built, "usable": usable, "reason": why, "devices": devices }));
    }
    if verb.json {
        print_json(&json!({ "version": JSON_VERSION, "executors": all }));
    } else {
        lines(text::table(&rows));
    }
    Ok(())
}

#[cfg(feature = "opencl")]
fn devices() -> Result<Vec<Found>, String> {
    let all = lockstep::runtime::opencl::devices()?;
    let found = all.into_iter().map(|d| Found {
        name: d.name,
        platform: d.platform,
        driver: d.driver,
        memory_bytes: d.memory_bytes,
        refusal: d.refusal,
    });
    Ok(found.collect())
}

#[cfg(not(feature = "opencl"))]
fn devices() -> Result<Vec<Found>, String> {
    Ok(Vec::new())
}
