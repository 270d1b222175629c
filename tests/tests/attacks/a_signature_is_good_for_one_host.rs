//! A host that a person trusts for itself gains nothing from what the person signs for another host.
