module corral.test/go_templates

go 1.23
