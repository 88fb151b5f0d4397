def test_package_is_there_without_what_it_recommends(host):
    assert host.package("cron").is_installed
    assert not host.package("exim4-base").is_installed
