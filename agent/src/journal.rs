//! What a power cut must find.
