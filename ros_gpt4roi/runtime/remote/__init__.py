"""A model that runs on a server in the place of the local stages: any that speaks OpenAI's API and takes pictures."""
