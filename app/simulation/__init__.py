"""The loop played from outside: a service is started, asked, labelled and measured over HTTP alone."""
