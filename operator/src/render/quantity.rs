//! Amounts in the form in which the API server gives them back; another form would never compare
//! equal.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use nsm_crds::{Amounts, WorkloadResources};

/// Requests and limits of a container.
pub(super) fn requirements(resources: &WorkloadResources) -> ResourceRequirements {
    ResourceRequirements {
        requests: resources.requests.as_ref().map(amounts),
        limits: resources.limits.as_ref().map(amounts),
        ..Default::default()
    }
}

fn amounts(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    let cpu = amounts.cpu.as_deref().map(|text| ("cpu".to_owned(), Quantity(cpu(text))));
    let memory = amounts.memory.as_deref().map(|text| ("memory".to_owned(), Quantity(memory(text))));
    cpu.into_iter().chain(memory).collect()
}

/// `0.5` is `500m`, `1000m` is `1`. What the schema would refuse passes unchanged, for the API
/// server to refuse.
fn cpu(text: &str) -> String {
    let millis: Option<u64> = match text.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => thousandths(text),
    };
    match millis {
        Some(millis) if millis % 1000 == 0 => (millis / 1000).to_string(),
        Some(millis) => format!("{millis}m"),
        None => text.to_owned(),
    }
}

/// A decimal number with at most three decimals, times 1000.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 {
        return None;
    }
    let decimals: u64 = format!("{decimals:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(decimals)
}

/// `1024Mi` is `1Gi`.
fn memory(text: &str) -> String {
    const UNITS: [&str; 4] = ["Ki", "Mi", "Gi", "Ti"];
    let parsed = UNITS.iter().enumerate().find_map(|(index, unit)| {
        Some((index, text.strip_suffix(unit)?.parse::<u64>().ok().filter(|amount| *amount > 0)?))
    });
    let Some((mut unit, mut amount)) = parsed else { return text.to_owned() };
    while amount % 1024 == 0 && unit + 1 < UNITS.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_come_out_as_the_api_server_writes_them() {
        for (given, wanted) in
            [("0.5", "500m"), ("1000m", "1"), ("1500m", "1500m"), ("2", "2"), ("0.001", "1m"), ("x", "x")]
        {
            assert_eq!(cpu(given), wanted, "{given}");
        }
        for (given, wanted) in [("1024Mi", "1Gi"), ("64Mi", "64Mi"), ("2048Ki", "2Mi"), ("1G", "1G")] {
            assert_eq!(memory(given), wanted, "{given}");
        }
    }
}
