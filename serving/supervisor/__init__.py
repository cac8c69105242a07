"""The processes of a service: supervisor, gateway workers, rollout of a new bundle, state files, operators' port."""
